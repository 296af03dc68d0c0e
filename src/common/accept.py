# SPDX-License-Identifier: AGPL-3.0-or-later
"""Content negotiation by `Accept` (RFC 9110, 12.5.1)."""

import re
from collections.abc import Sequence


def preferred_type(accept: str | None, offered: Sequence[str]) -> str | None:
    """Return the MIME type of `offered` that a client likes best, the first of equals; None if it takes none of them.

    No header, or an empty one, takes everything. The most specific range that names a type decides about it; a quality
    that can't be read is 0.
    """
    ranges: dict[str, float] = {}
    for part in (accept or "*/*").lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        quality = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        ranges[name] = float(quality) if re.fullmatch(r"[01](\.[0-9]{0,3})?", quality) else 0.0

    def quality_of(mime: str) -> float:
        candidates = (mime, f"{mime.partition('/')[0]}/*", "*/*")
        return next((ranges[each] for each in candidates if each in ranges), 0.0)

    best = max(offered, key=quality_of)
    return best if quality_of(best) > 0 else None
