# SPDX-License-Identifier: AGPL-3.0-or-later
"""The files that a combined file holds as comments."""

from __future__ import annotations

import base64
import hashlib

NEWLINES = {"lf": "\n", "crlf": "\r\n"}


def unpack(text: str) -> dict[str, bytes]:
    """Read the files that a combined file holds, by SHA-256; what was edited there is refused."""
    files = {}
    for block in ("\n" + text).split("\n#= ")[1:]:
        head, *lines = block.rstrip("\n").split("\n")
        digest, form, newline, name = head.split(" ", 3)
        body = "\n".join(line[3:] for line in lines)
        data = base64.b64decode(body) if form == "base64" else body.replace("\n", NEWLINES[newline]).encode(form)
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"{name} was edited inside the combined file: edit the script itself and combine again")
        files[digest] = data
    return files
