# SPDX-License-Identifier: AGPL-3.0-or-later
"""URLs in texts that Orthanc gives."""

import re

# Both take time in proportion to the text only, whatever it is.
USER = re.compile(r"(?<=://)[^\s/]*@")  # a password may hold an @: the last one before the path ends it
QUERY = re.compile(r"(://[^\s?]*)(?:\?\S*)?")


def without_secrets(text: str) -> str:
    """Return a text of Orthanc's without users, passwords and queries of the URLs in it.

    From 1.13.0 on, errors of requests to peers and DICOMweb servers name the whole URL, as the configuration has it.
    """
    return QUERY.sub(r"\1", USER.sub("", text))
