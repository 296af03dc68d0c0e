# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/path_segments.py: edit that, never this file.
"""The parts of a path between slashes: none that comes from a value, or is in a template, climbs out of its place.

`%2E%2E` is no way to write a harmless `..`: by RFC 3986 (6.2.2.2) both are the same, and proxies make the one the other.
"""

import re
import urllib.parse

SEPARATOR = r"/|\\|%2F|%5C"  # also encoded: many servers decode before they split


def has_dot_segments(path: str) -> bool:
    """Return whether a path has a part `.` or `..`, in whatever way it is written."""
    parts = re.split(SEPARATOR, path, flags=re.IGNORECASE)
    return any(urllib.parse.unquote(part) in (".", "..") for part in parts)


def harmless_segment(segment: str) -> str:
    """Return one part of a path, percent-encoded, in which dots that would climb and NUL became `_`, and so did nothing at all.

    >>> harmless_segment("..%2Fa"), harmless_segment(""), harmless_segment("1.2.3")
    ('__%2Fa', '_', '1.2.3')
    """
    dots = rf"(?:(?<=%2F)|(?<=%5C)|^)\.{{1,2}}(?={SEPARATOR}|$)"
    found = re.sub(dots, lambda each: "_" * len(each[0]), segment.replace("%00", "_"), flags=re.IGNORECASE)
    return found or "_"


def fits_in_path(uid: str) -> bool:
    """Return whether a UID is one part of a path as it is; real ones that are no UIDs by the letter are, too."""
    return re.fullmatch(r"\.*[\w-][\w.-]*", uid, re.ASCII) is not None
