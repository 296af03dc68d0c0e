# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/archive.py: edit that, never this file.
"""What this Orthanc has, asked over loopback, where anything may have been deleted meanwhile."""

from collections.abc import Iterable
from typing import Any

from .identifiers import PLURAL
from .loopback import Loopback, LoopbackError


def instances_of(loopback: Loopback, level: str, resource: str) -> list[str]:
    """Return the identifiers of a resource's instances; of an instance its own; none if the resource was deleted.

    Raises
    ------
    LoopbackError : Orthanc can't answer now.
    """
    if level == "Instance":
        return [resource]
    try:
        return identifiers_in(loopback.get(f"/{PLURAL[level]}/{resource}/instances?expand=false"))
    except LoopbackError as error:
        if error.status != 404:
            raise
        return []


def identifiers_in(listed: Iterable[Any]) -> list[str]:
    """Return the identifiers in a list of resources: 1.10.1 knows no `expand=false`, and gives objects."""
    return [each if isinstance(each, str) else each["ID"] for each in listed]
