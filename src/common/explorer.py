# SPDX-License-Identifier: AGPL-3.0-or-later
"""What scripts add to Orthanc Explorer."""

import orthanc


def add_to_explorer(javascript: str) -> None:
    """Let each page of Orthanc Explorer run this."""
    if hasattr(orthanc, "ExtendOrthancExplorer2"):
        orthanc.ExtendOrthancExplorer2("python", javascript)  # how the plugin calls itself
    else:
        orthanc.ExtendOrthancExplorer(javascript)
