# SPDX-License-Identifier: AGPL-3.0-or-later
"""Where the state of scripts is kept that several servers share: `Scripts.Database`."""

import dataclasses
import platform
from collections.abc import Mapping
from typing import Any

import orthanc

from common.settings import SettingsError, settings_of_all_scripts


@dataclasses.dataclass(frozen=True)
class Database:
    """A PostgreSQL, and the name of this server among those that share it.

    Attributes
    ----------
    url : has a password in it: it is in no line of the log, and in no answer.
    """

    url: str = dataclasses.field(repr=False)
    server: str


def shared_database_of(
    configuration: Mapping[str, Any], state_path: str | None, *, reconcile: bool, section: str
) -> Database | None:
    """Return where a script's state is kept, as `database_of`; None also for a wrong section `Scripts`: it is never opened.

    A `Reconcile` of false has no effect there, and a line of the log says so.
    """
    try:
        database = database_of(configuration, state_path)
    except SettingsError:
        return None
    if database and not reconcile:
        orthanc.LogWarning(
            f"{section}.Reconcile is false, and has no effect with Scripts.Database: one server at a time works, and does it for "
            "all, so that nothing is done twice"
        )
    return database


def database_of(configuration: Mapping[str, Any], state_path: str | None) -> Database | None:
    """Return where a script's state is kept if not in a file; its own `StatePath` wins.

    Raises
    ------
    SettingsError : the section `Scripts` is wrong.
    """
    found = settings_of_all_scripts(configuration)
    if state_path or not found.database:
        return None
    return Database(found.database, found.server or platform.node() or "unnamed")
