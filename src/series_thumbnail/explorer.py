# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pictures in Orthanc Explorer."""

from __future__ import annotations

from common.embedded import embedded
from common.explorer import add_to_explorer

# Orthanc Explorer builds its lists again at each turn: what looks at what was added needs no function of it. The page of
# a study or series has no link to itself, so its picture is shown where the page describes it.
EXPLORER = embedded("explorer.js")


def extend_explorer() -> None:
    """Let Orthanc Explorer show the pictures in its lists and on its pages."""
    add_to_explorer(EXPLORER)
