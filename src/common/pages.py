# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pages of lists: oldest first, each with the place where the next one begins."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.ledger import Ledger

ROWS_PER_PAGE = 100  # unless a request names its limit


@dataclasses.dataclass(frozen=True)
class Page:
    """Some rows of a list, how many rows the whole list has, and the `since` of the next page, if there is one."""

    total: int
    rows: Sequence[Mapping[str, Any]]
    following: int | None

    def answer(self, shown: Callable[[Mapping[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        """Return what a route answers, each row as `shown` makes it."""
        return {"Total": self.total, "Items": [shown(row) for row in self.rows], "Next": self.following}


def read_page(
    ledger: Ledger, table: str, key: str, parameters: Mapping[str, Any], where: str = "1", values: Sequence[Any] = ()
) -> Page:
    """Return the page of a table that a request asks for by `since` and `limit` (`PAGE_PARAMETERS`).

    Parameters
    ----------
    key : the column of whole numbers that orders the table.
    where, values : an SQL condition of the rows that are listed, and its values.
    """
    since, limit = parameters.get("since", 0), parameters.get("limit", ROWS_PER_PAGE)
    total = ledger.rows(f"SELECT COUNT(*) n FROM {table} WHERE {where}", *values)[0]["n"]
    sql = f"SELECT * FROM {table} WHERE {where} AND {key}>? ORDER BY {key} LIMIT ?"
    rows = ledger.rows(sql, *values, since, limit + 1)
    return Page(total, rows[:limit], rows[limit - 1][key] if len(rows) > limit else None)
