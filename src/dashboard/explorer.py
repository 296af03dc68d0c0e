# SPDX-License-Identifier: AGPL-3.0-or-later
"""The link in Orthanc Explorer."""

from __future__ import annotations

from common.embedded import embedded
from common.explorer import add_to_explorer

LINK = embedded("explorer.js")


def link_from_explorer() -> None:
    """Put a button into the head of Orthanc Explorer's first page."""
    add_to_explorer(LINK)
