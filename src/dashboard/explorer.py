# SPDX-License-Identifier: AGPL-3.0-or-later
"""The link in Orthanc Explorer."""

from __future__ import annotations

import orthanc

from common.embedded import embedded

LINK = embedded("explorer.js")


def link_from_explorer() -> None:
    """Put a button into the head of Orthanc Explorer's first page."""
    if hasattr(orthanc, "ExtendOrthancExplorer2"):
        orthanc.ExtendOrthancExplorer2("python", LINK)  # how the plugin calls itself
    else:
        orthanc.ExtendOrthancExplorer(LINK)
