# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/auto_retries/retrier.py", "tests/auto_retries/unit/test_owed.py"): {
        "watched | {study or patient for study, patient in places} | ": "watched | ",
        "watched | {study or patient": "{study or patient",
    },
    ("src/auto_retries/freshness.py", "tests/auto_retries/unit/test_guards.py"): {
        # (e)
        "if self._overwrites:": "if False:",
        'addresses == data["Addresses"]': "True",
        'return bool(count == job["Content"].get("InstancesCount"))': "return True",
    },
    ("src/auto_retries/freshness.py", "tests/auto_retries/test_dicomweb.py"): {
        'return data["Body"] is None and not has_read(job)': "return True",
    },
    ("src/auto_retries/failures.py", "tests/auto_retries/unit/test_dicomweb_jobs.py"): {
        'row["state"] == "waiting" and may_lie(': "False and may_lie(",
    },
    ("src/auto_retries/attempts.py", "tests/auto_retries/unit/test_dicomweb_jobs.py"): {
        "if ending is Ending.RUNNING and not may_lie(data):": "if ending is Ending.RUNNING:",
    },
    ("src/auto_retries/watcher.py", "tests/auto_retries/unit/test_dicomweb_jobs.py"): {
        "            self._describe(found)": "            pass",
    },
    ("src/common/jobs.py", "tests/auto_retries/unit/test_guards.py"): {
        'job.get("ErrorCode") == CANCELED_JOB': "False",
    },
    ("src/auto_retries/recipes.py", "tests/auto_retries/unit/test_guards.py"): {
        "if len({address(known[name]) for name in names}) > 1:": "if False:",
    },
    ("src/auto_retries/attempts.py", "tests/auto_retries/unit/test_changed_destinations.py"): {
        "if self._stopping.is_set():  # it took": "if False:  # it took",
    },
}
