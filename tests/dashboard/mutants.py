# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/dashboard/service.py", "tests/dashboard/unit/test_summary.py"): {
        "return time.monotonic() - self._seen_at < FRESH_SECONDS": "return False",
    },
    ("src/dashboard/flow.py", "tests/dashboard/unit/test_summary.py"): {
        "max(0.0, value - self._last)": "value - self._last",
        'if "Delivered" in status:\n                self._forwarded[script].read(status["Delivered"]["Instances"])': (
            'self._forwarded[script].read(status.get("Delivered", {"Instances": 0})["Instances"])'
        ),
    },
    ("src/dashboard/minutes.py", "tests/dashboard/unit/test_summary.py"): {
        'self._ledger.run("DELETE FROM minutes WHERE minute<=?", row.minute - KEEP_MINUTES)': "pass",
        '{row["thing"]: (row["state"], row["since"]) for row in rows}': "{}",
    },
    ("src/dashboard/alerts.py", "tests/dashboard/unit/test_summary.py"): {
        'key=lambda each: each["Level"] != ACT': "key=lambda each: 0",
        'if entry.get("Paused"):': "if False:",
    },
    ("src/dashboard/routes.py", "tests/dashboard/unit/test_summary.py"): {
        "if not self._dashboard.settings.actions:": "if False:",
    },
    ("src/dashboard/routes.py", "tests/dashboard/unit/test_files.py"): {
        "if version != FILES_HASH or name not in FILES:": "if name not in FILES:",
    },
    ("src/dashboard/gathering.py", "tests/dashboard/unit/test_summary.py"): {
        "if error.status == 0:  # Orthanc itself": "if True:",
    },
}
