# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/json_text.py: what is refused, that it never goes deep, and that no body of a mebibyte costs much."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.json_text import MAX_JSON_DEPTH, decoded, is_too_deep

MEBIBYTE = 1 << 20
MOST_SECONDS = (
    3.0  # of processor time, on a shared machine; 0.09 were measured (quadratic: 84 s for 120 KB of the first)
)
MOST_BYTES = 4 * MEBIBYTE  # of memory for the scan


def filled(start: bytes, repeated: bytes) -> bytes:
    return (start + repeated * (MEBIBYTE // len(repeated) + 1))[:MEBIBYTE]


NASTY = {
    "escaped quotes that are never closed": filled(b'{"a":"', rb"\""),
    "a quote and a backslash": filled(b"", b'"\\'),
    "backslashes": filled(b'"', b"\\"),
    "quotes": filled(b"", b'"'),
    "lists in lists": filled(b"", b"["),
    "objects in objects": filled(b"", b'{"a":'),
    "lists one after the other": filled(b"[", b"[],"),
    "lists without commas": filled(b"[", b"[]"),
    "objects one after the other": filled(b"[", b"{},"),
    "just below the bound": filled(b"[" * (MAX_JSON_DEPTH - 1), b"[],"),
    "texts of brackets": filled(b"[", b'"[[[",'),
    "texts beside brackets": filled(b"[", b'"["[],'),
    "empty texts": filled(b"[", b'"",'),
    "closing brackets": filled(b"", b"]"),
    "one long number": filled(b"", b"9"),
    "numbers of 4,000 digits": filled(b"[", b"9" * 4000 + b","),
    "numbers": filled(b"[", b"1,"),
    "blanks": filled(b"", b" "),
    "no UTF-8": filled(b"", b"\xff"),
    "half characters": filled(b'["', rb"\ud800"),
    "UTF-16": "[".encode("utf-16-le") * (MEBIBYTE // 2),
    "zeros": bytes(MEBIBYTE),
    "names": b"{" + b",".join(b'"%d":1' % number for number in range(80_000)) + b"}",
}


@pytest.mark.parametrize("name", NASTY)
def test_a_mebibyte_of_anything_costs_little_time_and_the_scan_next_to_no_memory(name: str) -> None:
    content = NASTY[name]
    begin = time.thread_time()
    with contextlib.suppress(ValueError):
        decoded(content)
    assert time.thread_time() - begin < MOST_SECONDS
    tracemalloc.start()
    try:
        is_too_deep(content)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", NASTY)
def test_twice_as_much_takes_about_twice_as_long(name: str) -> None:
    """Linear: eight times as much in less than 24 times the time (quadratic: 64 times), the best of some tries."""

    def seconds(content: bytes) -> float:
        tries = []
        for _ in range(5):
            begin = time.thread_time()
            is_too_deep(content)
            tries.append(time.thread_time() - begin)
        return min(tries)

    few = NASTY[name][: MEBIBYTE // 8]
    assert seconds(NASTY[name]) < 24 * seconds(few) + 0.01


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff", "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),  # half a surrogate pair, as CESU-8 writes it
        ("[1]".encode("utf-16"), "UTF-8"),
        (rb'"\ud800"', "surrogate"),
        (rb'{"\udfff": 1}', "surrogate"),
        (rb'{"a": ["\ud800\ud800"]}', "surrogate"),
        (b"NaN", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1, "a": 1}', "twice"),
        (rb'{"a": 1, "\u0061": 1}', "twice"),
        (b"9" * 5000, "4300"),
        (b"[" * (MAX_JSON_DEPTH + 1) + b"]" * (MAX_JSON_DEPTH + 1), "nested"),
        (b'{"a":' * (MAX_JSON_DEPTH + 1) + b"1" + b"}" * (MAX_JSON_DEPTH + 1), "nested"),
        (b"", "Expecting value"),
        (b"{", "Expecting"),
        (b"'a'", "Expecting"),
    ],
)
def test_what_is_no_json_is_a_value_error_that_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decoded(content)


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": "\xc3\xa9"}',
        b"\xef\xbb\xbf{}",
        rb'"\ud83d\ude00"',
        b"[" * MAX_JSON_DEPTH + b"]" * MAX_JSON_DEPTH,
        rb'"\\\"[[[{{{"',
        b' "[" ',
    ],
)
def test_what_is_json_is_decoded_as_json_does(content: bytes) -> None:
    assert decoded(content) == json.loads(content)


def depth_of(content: str) -> int:
    """How deep a decoder goes, character by character, until it must stop."""
    depth, deepest, inside, escaped = 0, 0, False, False
    for character in content:
        if inside:
            inside, escaped = character != '"' or escaped, character == "\\" and not escaped
        elif character == "\\" or depth < 0:
            break
        else:
            inside = character == '"'
            depth += (character in "[{") - (character in "]}")
            deepest = max(deepest, depth)
    return deepest


@given(st.text(st.sampled_from('[]{}"\\,:a '), max_size=400).map(lambda text: "[" * (MAX_JSON_DEPTH - 5) + text))
def test_nothing_that_a_decoder_would_go_too_deep_for_gets_past_the_scan(text: str) -> None:
    if not is_too_deep(text.encode()):
        deep = depth_of(text)
        try:
            json.loads(text)
        except ValueError as error:
            deep = depth_of(text[: getattr(error, "pos", len(text)) + 1])
        assert deep <= MAX_JSON_DEPTH


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(ANY_JSON, st.booleans())
def test_whatever_json_writes_comes_back(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert decoded(text) == decoded(text.encode()) == value


@given(st.binary(max_size=300) | st.text(st.characters(), max_size=300))
def test_anything_else_is_a_value_error(content: bytes | str) -> None:
    try:
        found = decoded(content)
    except ValueError:
        return
    assert not isinstance(found, float) or math.isfinite(found) or "e" in str(content).lower()


def test_the_deepest_that_is_let_through_fits_on_the_stack_of_an_http_thread() -> None:
    """Orthanc's have about 100 KB; Python's least is 32 KB and its own needs."""
    done: list[Any] = []
    before = threading.stack_size(96 << 10)
    try:
        thread = threading.Thread(
            target=lambda: done.append(decoded(b'{"a":[' * (MAX_JSON_DEPTH // 2) + b"]}" * (MAX_JSON_DEPTH // 2)))
        )
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert done
