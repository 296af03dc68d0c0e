# SPDX-License-Identifier: AGPL-3.0-or-later
"""How full it is: the file system of the storage in percent, or what the archive holds in bytes."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from common.file_system import file_system_of
from common.loopback import Loopback

BYTES_OF = {
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1) if power > 1},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1) if power > 1},
}
# A file system that compresses shows less than Orthanc counts, but not less than this share of it.
LEAST_SHARE = 0.25
LITTLE = 64e6  # bytes that say nothing: logs and the index grow too
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
    archive: float = 0  # bytes of Orthanc's files, as it counts them

    def above(self, level: Level) -> float:
        """Return how many bytes it is above a level of its kind; negative below it."""
        share = self.size / 100 if self.level.is_percent else 1
        return (self.level.amount - level.amount) * share

    @property
    def used(self) -> float:
        """The bytes that the file system holds, whoever wrote them; of the archive: those that it holds."""
        return self.level.amount * self.size / 100 if self.level.is_percent else self.level.amount

    def contradiction(self, before: Fill | None, gone: float) -> str:
        """Return why the file system does not show what Orthanc has and deletes, or "".

        Whoever deletes by such a percentage deletes all that is old, and never gets down to the level.

        Parameters
        ----------
        before, gone : how full it was before so many bytes of studies were deleted.
        """
        if not self.level.is_percent:
            return ""
        if self.used + LITTLE < self.archive * LEAST_SHARE:
            return f"the file system holds {_gb(self.used)}, and Orthanc's files have {_gb(self.archive)}: is it the right one?"
        if before and gone > LITTLE:
            by_others = (self.used - before.used) - (self.archive - before.archive)  # what came in since is in both
            if gone - by_others < gone * LEAST_SHARE:
                return (
                    f"{_gb(gone)} of studies went, and the file system has no more room by it: snapshots or a trash keep "
                    "them, or others fill it"
                )
        return ""


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


class Disk:
    """Measures the disk.

    Parameters
    ----------
    folder : Orthanc's storage; its file system counts, whoever else writes there.
    """

    def __init__(self, loopback: Loopback, folder: Path) -> None:
        self._loopback, self._folder = loopback, folder
        self._identity: int | None = None  # of its file system

    def fill(self, *, in_percent: bool) -> Fill:
        """Return how full it is: the file system as `df` counts, or the archive as Orthanc does (`TotalDiskSize`).

        Raises
        ------
        OSError : the file system can't be measured, or is not the one that was there first.
        LoopbackError : Orthanc does not answer.
        """
        archive = int(self._loopback.get("/statistics")["TotalDiskSize"])
        if not in_percent:
            return Fill(Level(archive, is_percent=False), 1, archive)
        found = file_system_of(self._folder)
        if self._identity is None:
            self._identity = found.identity
        if found.identity != self._identity:
            raise OSError(f"{self._folder} is on another file system than before: it was unmounted, or mounted late")
        return Fill(Level(found.used_percent, is_percent=True), found.size, archive)

    def room(self) -> tuple[int, float] | None:
        """Return the bytes that are left on the file system of the storage, and how full it is in percent; None: not known."""
        try:
            found = file_system_of(self._folder)
        except OSError:
            return None
        return found.size - found.used, found.used_percent
