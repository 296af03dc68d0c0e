# SPDX-License-Identifier: AGPL-3.0-or-later
"""The numbers of our own kinds of metadata and attachments, which a configuration may name, or give to somebody else."""

import json
from collections.abc import Mapping
from typing import Any

from common.settings import SettingsError, check_section_name, is_nearly


def user_number(configuration: Mapping[str, Any], section: str, name: str, number: int) -> tuple[str, str | None]:
    """Return how Orthanc's routes and answers call our metadata (`UserMetadata`) or attachment (`UserContentType`).

    Returns
    -------
    The name if the configuration has it, with None; else the number, which Orthanc takes as it is, with the line to add.

    Raises
    ------
    SettingsError : the configuration gives that number to another name, or a number to a name that is nearly ours.
    """
    check_section_name(section, configuration)
    named = configuration.get(section) or {}
    if name in named:
        return name, None
    if near := [other for other in named if is_nearly(other, name)]:
        raise SettingsError(f"{section}: found {json.dumps(near[0])} (did you mean {json.dumps(name)}?)")
    numbers = {other: value[0] if isinstance(value, list) and value else value for other, value in named.items()}
    if taken := [other for other, value in numbers.items() if value == number]:
        raise SettingsError(
            f"{section}: {number} is {json.dumps(taken[0])} here, and would be {json.dumps(name)}; "
            f'allowed: another number for {json.dumps(name)}, as in "{section}": {{"{name}": 1024 to 65535}}'
        )
    return str(number), f'add "{section}": {{"{name}": {number}}} to the configuration: then {number} has its name'
