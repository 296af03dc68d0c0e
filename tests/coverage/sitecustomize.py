# SPDX-License-Identifier: AGPL-3.0-or-later
"""Python imports this by itself at its start, also inside Orthanc: notes which lines of our scripts it runs (`make coverage`).

Nothing is measured without `SCRIPTS_COVERAGE`, a folder. What a killed process ran in its last second is not noted.
"""

import atexit
import contextlib
import os
import threading
import time

SECONDS = 1.0  # from one note to the next


def measure(folder: str, patterns: list[str]) -> None:
    """Measure from now on, and write it down now and then, and at the end."""
    import coverage

    measured = coverage.Coverage(
        data_file=f"{folder}/lines", data_suffix=True, config_file=False, include=patterns, check_preimported=False
    )
    measured._warn_no_data = False  # a process without a script of ours
    measured.start()

    def save() -> None:
        with contextlib.suppress(Exception):  # at worst, lines are missing in the report
            measured.save()

    def save_again_and_again() -> None:
        while True:
            time.sleep(SECONDS)
            save()

    threading.Thread(target=save_again_and_again, name="coverage", daemon=True).start()
    atexit.register(save)


if "SCRIPTS_COVERAGE" in os.environ:
    measure(os.environ["SCRIPTS_COVERAGE"], os.environ["SCRIPTS_COVERED"].split(os.pathsep))
