# SPDX-License-Identifier: AGPL-3.0-or-later
"""JSON from outside, decoded at a cost in proportion to its length, whatever it holds."""

import json
from typing import Any

# Orthanc's HTTP threads have a stack of 100 KB: JSON nested 550 deep would end the whole server.
MAX_JSON_DEPTH = 50
QUOTE = ord('"')
STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
NO_STRUCTURE = bytes({*range(256)} - {QUOTE, *STEPS})


def decoded(text: str | bytes) -> Any:
    """Return what JSON says.

    Raises
    ------
    ValueError : it is none (not in UTF-8, NaN, infinite), it is nested more than `MAX_JSON_DEPTH` deep, names something
        twice, or holds half of a surrogate pair, which is no character.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        content = text.encode()
    except UnicodeError:
        raise ValueError("it is not in UTF-8") from None
    if is_too_deep(content):
        raise ValueError(f"it is nested more than {MAX_JSON_DEPTH} deep")
    found = json.loads(text, object_pairs_hook=_named_once, parse_constant=_refuse_constant)
    if "\\u" in text:
        _refuse_half_characters(found)
    return found


def is_too_deep(content: bytes) -> bool:
    """Return whether the decoder would go down more than `MAX_JSON_DEPTH` lists and objects, before or after it finds an error.

    Three passes in C leave nothing but brackets and quotes; then one loop counts, with a handful of numbers. What is
    written in a text nests nothing. A backslash outside a text ends the decoder, so all others are in pairs, or escape.
    """
    content = content.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, NO_STRUCTURE)
    depth, inside = 0, False
    for byte in content.replace(b'""', b""):  # two quotes side by side change nothing for what follows
        if byte == QUOTE:
            inside = not inside
        elif not inside:
            depth += STEPS[byte]
            if depth > MAX_JSON_DEPTH:
                return True
            if depth <= 0:  # all that was opened is closed: the decoder ends here
                return False
    return False


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name stands in it twice")
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _refuse_half_characters(found: Any) -> None:
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text in it has half of a surrogate pair, which is no character") from None
