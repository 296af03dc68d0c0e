# SPDX-License-Identifier: AGPL-3.0-or-later
"""Takes out of a session of cosmic-ray what is no question to a test.

    python -m tests.mutation.skip SESSION WANTED      by cosmic-ray's Python, in the folder of the sources

WANTED is a regular expression: other operators are skipped. So are changes of annotations.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cosmic_ray.work_db import WorkDB, use_db
from cosmic_ray.work_item import WorkerOutcome, WorkResult

from tests.mutation.annotations import Position, annotations_of


def main() -> int:
    session, wanted = sys.argv[1], re.compile(sys.argv[2])
    spans: dict[Path, list[tuple[Position, Position]]] = {}
    with use_db(session, WorkDB.Mode.open) as database:
        for item in database.pending_work_items:
            [mutation] = item.mutations
            if mutation.module_path not in spans:
                spans[mutation.module_path] = annotations_of(mutation.module_path.read_text())
            is_annotation = any(first <= mutation.start_pos < last for first, last in spans[mutation.module_path])
            if is_annotation or not wanted.fullmatch(mutation.operator_name.removeprefix("core/")):
                database.set_result(item.job_id, WorkResult(worker_outcome=WorkerOutcome.SKIPPED, output="skipped"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
