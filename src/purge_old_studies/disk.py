# SPDX-License-Identifier: AGPL-3.0-or-later
"""How full it is: the file system of the storage in percent, or what the archive holds in bytes."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

from common.loopback import Loopback

BYTES_OF = {
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1) if power > 1},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1) if power > 1},
}
ALLOWED = 'a share of the file system such as "85%", or what the archive may hold: "900GB", "900GiB", "1.5TB"'


@dataclasses.dataclass(frozen=True)
class Level:
    """A level of the disk: a share of its file system in percent, or bytes of the archive."""

    amount: float
    is_percent: bool

    def __str__(self) -> str:
        return f"{self.amount:.4g}%" if self.is_percent else f"{self.amount / 1e9:.4g} GB"


def parse_level(text: str) -> Level | None:
    """Return what a text such as `85%`, `900GB`, `1.5TiB` means, or None."""
    if not (found := re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)(%|[MGT]i?B)", text, re.ASCII)):
        return None
    number, unit = float(found[1]), found[2]
    if number <= 0 or (unit == "%" and number >= 100):
        return None
    return Level(number, is_percent=True) if unit == "%" else Level(number * BYTES_OF[unit], is_percent=False)


@dataclasses.dataclass(frozen=True)
class Fill:
    """How full it is, and how many bytes have to go until it is at another level."""

    level: Level
    size: float  # bytes of which the level is a share; of the archive: 1

    def above(self, level: Level) -> float:
        """Return how many bytes it is above a level of its kind; negative below it."""
        share = self.size / 100 if self.level.is_percent else 1
        return (self.level.amount - level.amount) * share


class Disk:
    """Measures the disk.

    Parameters
    ----------
    folder : Orthanc's storage; its file system counts, whoever else writes there.
    """

    def __init__(self, loopback: Loopback, folder: Path) -> None:
        self._loopback, self._folder = loopback, folder

    def fill(self, *, in_percent: bool) -> Fill:
        """Return how full it is: the file system as `df` counts, or the archive as Orthanc does (`TotalDiskSize`).

        Raises
        ------
        OSError : the file system can't be measured.
        LoopbackError : Orthanc does not answer.
        """
        if not in_percent:
            size = int(self._loopback.get("/statistics")["TotalDiskSize"])
            return Fill(Level(size, is_percent=False), 1)
        found = os.statvfs(self._folder)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        size = used + found.f_bavail * found.f_frsize  # without what only root may use
        return Fill(Level(100 * used / max(size, 1), is_percent=True), size)
