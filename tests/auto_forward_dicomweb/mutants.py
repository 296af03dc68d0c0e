# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/common/jobs.py", "tests/auto_forward_dicomweb/unit/test_dicomweb_servers.py"): {
        'why = ": ".join(reasons) or job': "why = job",
    },
    ("src/forwarding/destinations.py", "tests/auto_forward_dicomweb/unit/test_dicomweb_servers.py"): {
        "if self._known == before and not is_changed:": "if False:",
        "(polled and time.monotonic() >= self._next_ask)": "False",
        "if error.status != 404:": "if True:",
    },
    ("src/forwarding/dicomweb.py", "tests/auto_forward_dicomweb/unit/test_dicomweb_servers.py"): {
        "if error.status not in KNOWS_NO_ROUTE:": "if False:",
        'if came.get("Origin") == "Plugins" or (': "if (",
        'came.get("Origin") == "RestApi" and came.get("RemoteIP") in addresses': "False",
        "if isinstance(answer, dict) and file and": "if False and",
        "== self._port and is_this_machine(host):": "== self._port and False:",
        "if self.configured <= {*loopback.get(": "if {*()} <= {*loopback.get(",
        "if not self._is_wanted:": "if True:",
        "if error.status not in (400, 404):": "if False:",
        "if len(answers) == before:": "if True:",
        'element.get("Value") if isinstance(element, dict) else None': '(element or {}).get("Value")',
        "if isinstance(value, list) and value and": "if value and",
        "if len(answers) > MOST_ANSWERS:": "if False:",
    },
    ("src/forwarding/failures.py", "tests/auto_forward_dicomweb/unit/test_dicomweb_servers.py"): {
        '("connect", "bad credentials")': '("connect",)',
    },
    ("src/forwarding/jobs.py", "tests/auto_forward_dicomweb/unit/test_dicomweb_servers.py"): {
        "not self._outcomes.is_asked_for(row) and ": "",
    },
    ("src/forwarding/portions.py", "tests/auto_forward_dicomweb/unit/test_dicomweb_servers.py"): {
        "if size > self._largest and number:": "if size > self._largest:",
        'return int(found["UncompressedSize"]) <= self._largest': "return False",
        'self._ledger.add(row["queue"], row["subject"], rest, row["priority"])': "pass",
    },
    ("src/forwarding/verification.py", "tests/auto_forward_dicomweb/unit/test_dicomweb_servers.py"): {
        " and not may_overwrite(context.configuration)": "",
        "if arrived and not answer.missing:": "if False:",
        "arrived = sorted({*answer.asked} - {*answer.missing}) if not answer.error else []": "arrived = sorted(answer.asked)",
    },
}
