# SPDX-License-Identifier: AGPL-3.0-or-later
"""Opens the ledger of a script where the configuration says: in a file, or in the PostgreSQL that several servers share."""

from collections.abc import Mapping
from typing import Any

from common.database import database_of
from common.ledger import VERSION, Ledger
from common.postgres_ledger import PostgresLedger
from common.state import state_folder


def open_ledger(
    name: str,
    configuration: Mapping[str, Any],
    state_path: str | None,
    tables: str,
    *,
    durability: str,
    version: int = VERSION,
    first_tasks: str = "",
) -> Ledger:
    """Open the ledger of a script (its name with underscores), and make it if it is not there.

    Raises
    ------
    StateBusyError : another process, or server, has it.
    ValueError : the configuration asks for what is not there.
    OSError, sqlite3.Error : it can't be opened now.
    """
    if database := database_of(configuration, state_path):
        return PostgresLedger(database, name, tables, version=version)
    path = state_folder(state_path, configuration) / f"{name}.sqlite"
    return Ledger(path, tables, durability=durability, version=version, first_tasks=first_tasks)
