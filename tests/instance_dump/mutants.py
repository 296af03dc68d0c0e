# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/common/http_threads.py", "tests/instance_dump/unit/test_guards.py"): {
        "finally:\n            self._turns.release()": "finally:\n            pass",
    },
    ("src/instance_dump.py", "tests/instance_dump/unit/test_guards.py"): {
        "if not is_orthanc_identifier(instance):": "if False:",
        "> MAX_FILE_BYTES:": "> MAX_FILE_BYTES * 99:",
    },
}
