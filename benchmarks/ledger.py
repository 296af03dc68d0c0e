# SPDX-License-Identifier: AGPL-3.0-or-later
"""make bench-ledger: does a turn of a script cost more when many rows are finished? 300 and 300,000, without a server.

A turn is what the forwarders ask of their ledger, and a step of expiry. Arguments: --few, --many (finished rows).
"""

from __future__ import annotations

import argparse
import functools
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import goals
from testing.standin import StandIn

FINISHED = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<?)
INSERT INTO work SELECT NULL,'NODE','study'||i,'done',1,0,'',NULL,'{}',?,?,0,'send',0 FROM n
"""


def turn(ledger: Any, oldest_unfinished: str) -> None:
    ledger.due("", 500, 3600, "route")
    ledger.queues("sending")
    for queue in ledger.queues("waiting"):
        ledger.due(queue, 5, 3600)
    ledger.rows("SELECT * FROM work WHERE state='sending'")
    ledger.forget_finished(30)
    ledger.totals()
    ledger.rows(oldest_unfinished, "delete")


def milliseconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(50):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--few", type=int, default=300)
    parser.add_argument("--many", type=int, default=300_000)
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent.parent / "src"))
    with StandIn().installed(), tempfile.TemporaryDirectory() as folder:
        ledger_module = importlib.import_module("common.ledger")
        oldest = importlib.import_module("common.work").OLDEST_UNFINISHED
        costs, expiry = [], []
        for number in (given.few, given.many):
            ledger = ledger_module.Ledger(Path(folder) / f"{number}.sqlite")
            ledger.run(FINISHED, number, time.time(), time.time())
            for one in range(10):
                ledger.add("NODE", f"waits{one}", {})
            costs.append(milliseconds(functools.partial(turn, ledger, oldest)))
            ledger.run("UPDATE work SET updated=0 WHERE state='done'")
            expiry.append(milliseconds(functools.partial(ledger.forget_finished, 30)))
            print(
                f"  {number:7d} finished rows: {costs[-1]:.3f} ms a turn, {expiry[-1]:.2f} ms a step of expiry that "
                f"deletes up to {ledger_module.FORGOTTEN_AT_ONCE}",
                flush=True,
            )
            ledger.close()
        goals.most(f"a turn with {given.many:,} finished rows over one with {given.few}", costs[1] / costs[0], 1.5)


if __name__ == "__main__":
    main()
