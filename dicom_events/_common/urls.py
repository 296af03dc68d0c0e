# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/urls.py: edit that, never this file.
"""URLs in texts that Orthanc gives."""

import re

# A password may hold an @: the last one before the path ends it.
URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://)(?:[^\s/]*@)?([^\s?]*)(?:\?\S*)?", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """Return a text of Orthanc's without users, passwords and queries of the URLs in it.

    From 1.13.0 on, errors of requests to peers and DICOMweb servers name the whole URL, as the configuration has it.
    """
    return URL.sub(r"\1\2", text)
