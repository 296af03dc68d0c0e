# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pages of lists: oldest first, each with the place where the next one begins."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

ITEMS_PER_PAGE = 100  # unless a request names its limit

Row = Mapping[str, Any]


def page_answer(
    parameters: Mapping[str, Any],
    total: int,
    read: Callable[[int, int], Sequence[Row]],
    shown: Callable[[Row], dict[str, Any]],
) -> dict[str, Any]:
    """Return the page of a list that a request asks for by `since` and `limit` (`PAGE_PARAMETERS`).

    Parameters
    ----------
    total : the number of rows of the whole list.
    read : returns at most so many rows (its second argument) after the one with this number (its first), oldest first.
    shown : returns a row as the answer has it, its number as `ID`.
    """
    since, limit = parameters.get("since", 0), parameters.get("limit", ITEMS_PER_PAGE)
    rows = read(since, limit + 1)
    items = [shown(row) for row in rows[:limit]]
    return {"Total": total, "Items": items, "Next": items[-1]["ID"] if len(rows) > limit else None}
