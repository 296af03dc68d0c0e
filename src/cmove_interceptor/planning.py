# SPDX-License-Identifier: AGPL-3.0-or-later
"""Cuts a move into parts: what is sent by which association."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from .archive import Archive
from .move import Part
from .settings import MIN_IMAGES_FOR_SECOND_ASSOCIATION

PIECE_SIZE = 64  # images of a job that sends some of a series: after each, Orthanc writes down the names of all
RAMP_UP_SIZES = (16, 32)  # images of the first pieces of a series, and backwards of the last


class Planner:
    """Cuts moves into parts for so many associations at a time."""

    def __init__(self, archive: Archive, associations: int) -> None:
        self._archive, self._associations = archive, associations

    def parts(self, level: str, resources: Sequence[str]) -> list[Part]:
        """Return what each job sends; the number of images is 0 where it is not known.

        One sends all; or, where images are many, there is one for each association, with whole series. Only a series that is
        more than what one association should send is sent in pieces, if naming its images costs little.
        """
        if level == "INSTANCE" or self._associations == 1:
            return [Part(resources, 0)]
        series = {each: ids for resource in resources for each, ids in self._archive.series(level, resource).items()}
        total = sum(map(len, series.values()))
        if total < MIN_IMAGES_FOR_SECOND_ASSOCIATION:
            return [Part(resources, total)]
        shares: list[list[str]] = [[] for _ in range(self._associations)]
        pieces: list[Part] = []
        for each in sorted(series, key=lambda each: -len(series[each])):  # the longest first, where there is least
            count = len(series[each])
            if count <= max(total / self._associations, PIECE_SIZE) or not self._archive.may_name_images(count):
                min(shares, key=lambda share: sum(len(series[other]) for other in share)).append(each)
            else:
                cuts = itertools.pairwise(itertools.accumulate(piece_sizes(count), initial=0))
                pieces += [Part(series[each][start:end], end - start) for start, end in cuts]
        return [Part(share, sum(len(series[each]) for each in share)) for share in shares if share] + pieces


def piece_sizes(count: int) -> list[int]:
    """Return in which pieces a series of so many images is sent, none above `PIECE_SIZE`.

    The first are small, so that the second association begins soon, and the last, so that both end together.
    """
    ramp = RAMP_UP_SIZES if count > 4 * sum(RAMP_UP_SIZES) else ()
    inner = count - 2 * sum(ramp)
    number = math.ceil(inner / PIECE_SIZE)
    cuts = itertools.pairwise(inner * cut // number for cut in range(number + 1))
    return [*ramp, *(end - start for start, end in cuts), *reversed(ramp)]
