# SPDX-License-Identifier: AGPL-3.0-or-later
"""The pictures in Orthanc Explorer."""

from __future__ import annotations

import orthanc

from common.embedded import embedded

# Orthanc Explorer builds its lists again at each turn: what looks at what was added needs no function of it. The page of
# a study or series has no link to itself, so its picture is shown where the page describes it.
EXPLORER = embedded("explorer.js")


def extend_explorer() -> None:
    """Let Orthanc Explorer show the pictures in its lists and on its pages."""
    if hasattr(orthanc, "ExtendOrthancExplorer2"):
        orthanc.ExtendOrthancExplorer2("python", EXPLORER)  # how the plugin calls itself
    else:
        orthanc.ExtendOrthancExplorer(EXPLORER)
