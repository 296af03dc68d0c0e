# SPDX-License-Identifier: AGPL-3.0-or-later
"""make torture: an Orthanc with all scripts, studies that flow, and everything that can go wrong; then an account.

The account says what was sent (what Orthanc has acknowledged), what each destination has, what was lost, repeated and
deleted, which events and which lines of the audit log are missing. Where a number must be 0 and is not, it names each one, and
the exit status is 1. The seed decides what happens when, as far as processes that run side by side repeat themselves.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from pathlib import Path

from tests.torture.disturbances import DISTURBANCES
from tests.torture.run import torture


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="decides what happens, and when (default: 1)")
    parser.add_argument(
        "--minutes", type=float, default=5.0, help="for which studies flow (default: 5); the end comes on top"
    )
    parser.add_argument("--only", action="append", metavar="NAME", help="only this disturbance; may be repeated")
    parser.add_argument("--postgres", action="store_true", help="with PostgreSQL as the index of Orthanc")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the logs there")
    parser.add_argument("--list", action="store_true", help="print the disturbances")
    options = parser.parse_args()
    if options.list:
        for each in DISTURBANCES.values():
            print(f"{each.name:24} {each.what}")
        return 0
    if unknown := {*(options.only or ())} - DISTURBANCES.keys():
        parser.error(f"--only: found {', '.join(sorted(unknown))}, allowed: {', '.join(DISTURBANCES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # all that was started and mounted is undone
    with tempfile.TemporaryDirectory(prefix="torture-") as temporary:
        account = torture(
            Path(temporary),
            random.Random(options.seed),
            seconds=options.minutes * 60,
            only=options.only or [*DISTURBANCES],
            on_postgres=options.postgres,
            keep=options.keep,
            say=lambda text: print(text, flush=True),
        )
    print(f"\nseed {options.seed}\n{account}", flush=True)
    return 0 if account.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
