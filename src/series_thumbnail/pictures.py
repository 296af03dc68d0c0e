# SPDX-License-Identifier: AGPL-3.0-or-later
"""Pictures, and the comment in one that says what it was made of."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TypeAlias

from .options import RenderOptions

# How the same request is recognised: its address, `Accept`, and the parameters as they came.
RequestKey: TypeAlias = tuple[str, str | None, tuple[tuple[str, str], ...]]


@dataclasses.dataclass(slots=True)
class Picture:
    """One that is drawn of `instance`, when its resource had `count` instances and its series this LastUpdate.

    `checked`: when it was last known to be right; `archive`: the state of the archive in which it was;
    `is_kept`: it is an attachment of the series; `was_chosen`: the metadata name `instance`.
    """

    content: bytes
    mime: str
    etag: str
    instance: str
    is_icon: bool = False
    count: int | None = None
    last_update: str = ""
    is_kept: bool = False
    was_chosen: bool = False
    checked: float = 0.0
    archive: object = None
    request_keys: list[RequestKey] = dataclasses.field(default_factory=list)


def is_known(picture: Picture, if_none_match: str | None) -> bool:
    """Return whether the caller has it already (RFC 9110 13.1.2)."""
    return if_none_match is not None and (picture.etag in if_none_match or if_none_match.strip() == "*")


def make_picture(content: bytes, options: RenderOptions, instance: str, is_icon: bool = False) -> Picture:
    """Return a picture that is drawn of an instance."""
    return Picture(content, options.mime, f'"{hashlib.sha1(content).hexdigest()}"', instance, is_icon)


def with_note(jpeg: bytes, note: str) -> bytes:
    """Return the JPEG with a comment (COM, ITU T.81 B.2.4.5) after its first marker: what the picture was made of."""
    text = note.encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2) + text + jpeg[2:]


def without_note(jpeg: bytes) -> tuple[bytes, str]:
    """Return what `with_note` was given; an empty note where there is none."""
    if jpeg[:4] != b"\xff\xd8\xff\xfe":
        return jpeg, ""
    end = 4 + int.from_bytes(jpeg[4:6])
    return jpeg[:2] + jpeg[end:], jpeg[6:end].decode(errors="replace")
