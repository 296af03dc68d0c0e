# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/dashboard/notify.py", "tests/dashboard/unit/test_notify.py"): {
        'if identifier == f"script:{NAME}":': "if False:",
        "is_due = identifier in known or now - since >= after_minutes * 60": "is_due = now - since >= after_minutes * 60",
        "is_due = identifier in known or now - since >= SETTLED_SECONDS": "is_due = True",
        "printable(f": "str(f",
        'entry.get("State") != "running" or not': "not",
        'or not entry.get("Totals") or': "or",
        "or (is_forwarder and script not in asked)": "",
        'and place["State"] != "paused" and': "and",
        'bool(place["Totals"].get("waiting")) and not place.get("LastMinute")': "False",
        "gone = known - needs.keys() - unknown": "gone = known - needs.keys()",
        "if steady - since >= SETTLED_SECONDS": "",
        '(not row["told"] or abs(now - row["told_at"]) >= MORE_AFTER_SECONDS)': "True",
        '        elif need.number < row["number"]:': "        elif False:",
        "told_at=? WHERE channel=? AND alert=? AND changed=?": "told_at=? WHERE channel=? AND alert=? AND changed>?-9e18",
        'ledger.run("DELETE FROM notices WHERE channel=?", row["channel"])': "pass",
    },
    ("src/dashboard/senders.py", "tests/dashboard/unit/test_senders.py"): {
        "if not 200 <= answer.status < 300:": "if answer.status >= 400:",
        "client.starttls(context=self._context)": "client.has_extn('starttls') and client.starttls(context=self._context)",
        "        if refused:": "        if False:",
        "except smtplib.SMTPAuthenticationError as error:": "except ZeroDivisionError as error:",
        "        if not self._target.secret:": "        if True:",
    },
    ("src/dashboard/notifying.py", "tests/dashboard/unit/test_senders.py"): {
        "if 0 < early <= BETWEEN_MESSAGES_SECONDS:": "if 0 < early:",
        "            self._pauses.reset()\n": "",
        "level = above - 2 if SERVER_DISK in known else above": "level = above",
        "            except PartlySentError as error:": "            except ZeroDivisionError as error:",
    },
    ("src/dashboard/notify_settings.py", "tests/dashboard/unit/test_senders.py"): {
        'if mail.password is not None and mail.security == "none":': "if False:",
        "if (mail.user is None) != (mail.password is None):": "if False:",
    },
    ("src/dashboard/notify_settings.py", "tests/dashboard/unit/test_notify_keys.py"): {
        "if mail is None and self.webhook is None:": "if False:",
    },
    ("src/dashboard/senders.py", "tests/dashboard/unit/test_notify_keys.py"): {
        "except OSError as error:  # ssl.SSLError is one": "except ZeroDivisionError as error:",
        'one_line(f"{where}: {type(error)': 'one_line(f"{type(error)',
    },
    ("src/dashboard/service.py", "tests/dashboard/unit/test_summary.py"): {
        "return time.monotonic() - self._seen_at < FRESH_SECONDS": "return False",
        "            self.minutes.add(self._ended[0])\n            self._ended.popleft()": "            self.minutes.add(self._ended.popleft())",
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
        'each.get("State") == "misconfigured" for': "True for",
        'name == "dicom_events" and _has': "_has",
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
