# SPDX-License-Identifier: AGPL-3.0-or-later
"""Who sends a request, as its headers say."""

import base64
import binascii

from common.routes import one_line


def user_of(authorization: str) -> str:
    """Return the name in an `Authorization` header (RFC 7617), else its kind in brackets; never what is secret in it.

    "" where there is none, or what can't be read.
    """
    kind, _, credentials = authorization.partition(" ")
    if kind.lower() != "basic":
        return f"({one_line(kind)[:20]})" if credentials else ""
    try:
        return one_line(base64.b64decode(credentials).decode("utf-8", "replace").partition(":")[0])
    except (ValueError, binascii.Error):
        return ""
