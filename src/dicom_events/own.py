# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an event of a user's own may be: what no broker takes is refused when it is published."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from common.json_text import MAX_JSON_DEPTH

MOST_TEXT_BYTES = 255  # of a type (a routing key of AMQP 0-9-1) and of a subject, in UTF-8
MOST_DATA_BYTES = 16 << 20  # bytes of JSON: what RabbitMQ takes, others take less
TYPE = f"words of ASCII letters, digits, _ and - with dots between, not below dicom. or orthanc., at most {MOST_TEXT_BYTES} bytes"
DATA = (
    f"objects with texts as keys, lists, texts, finite numbers, true, false, null, nested at most {MAX_JSON_DEPTH} deep, "
    f"at most {MOST_DATA_BYTES >> 20} MiB as JSON"
)


def json_of_event(kind: Any, data: Any, subject: Any) -> str:
    """Return `data` as JSON, in ASCII. Raises `ValueError`, which says what was found and what is allowed."""
    if (
        not isinstance(kind, str)
        or not re.fullmatch(r"[\w-]+(\.[\w-]+)+", kind, re.ASCII)
        or len(kind) > MOST_TEXT_BYTES
        or kind.startswith(("dicom.", "orthanc."))
    ):
        raise ValueError(f"type: found {_shown(kind)}, allowed: {TYPE}")
    if not isinstance(subject, str) or not _is_line(subject) or len(subject.encode()) > MOST_TEXT_BYTES:
        raise ValueError(
            f"subject: found {_shown(subject)}, allowed: a text of one line, at most {MOST_TEXT_BYTES} bytes in UTF-8"
        )
    if complaint := _complaint(data):
        raise ValueError(f"data: found {complaint}, allowed: {DATA}")
    try:
        text = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError) as error:  # as a number of 5000 digits
        raise ValueError(f"data: found no JSON ({error}), allowed: {DATA}") from None
    if len(text) > MOST_DATA_BYTES:
        raise ValueError(f"data: found {len(text)} bytes of JSON, allowed: {DATA}")
    return text


def _shown(value: object) -> str:
    return ascii(value) if len(ascii(value)) <= 80 else f"{ascii(value)[:77]}…"


def _is_line(text: str) -> bool:
    """Return whether it has something that is seen, and no control character or half of a surrogate pair."""
    return bool(text.strip()) and text == text.strip() and not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", text)


def _complaint(data: Any) -> str | None:
    """Return what of it JSON, or UTF-8, can't be, or None.

    Without recursion: this may be called in a thread of Orthanc's with a small stack.
    """
    level = [data]
    for _ in range(MAX_JSON_DEPTH + 1):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                if wrong := [key for key in each if not isinstance(key, str)]:
                    return f"a key that is no text ({_shown(wrong[0])})"
                inner += [*each, *each.values()]
            elif isinstance(each, list | tuple):
                inner += each
            elif isinstance(each, str):
                if re.search("[\ud800-\udfff]", each):
                    return "half of a surrogate pair"
            elif isinstance(each, float):
                if not math.isfinite(each):
                    return str(each)
            elif each is not None and not isinstance(each, int):
                return type(each).__name__
        if not inner:
            return None
        level = inner
    return "a deeper one"
