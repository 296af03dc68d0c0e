# SPDX-License-Identifier: AGPL-3.0-or-later
"""The section AuditLog of the configuration, and the key of the HMACs."""

from __future__ import annotations

import dataclasses
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from common.settings import durability_field, state_path_field
from common.state import make_private, open_private

SECTION = "AuditLog"
MIN_KEY_LENGTH = 32  # characters


def wrong_key(key: str | None) -> str | None:
    """Return what is allowed, if this is no key."""
    return None if key is None or len(key) >= MIN_KEY_LENGTH else f"at least {MIN_KEY_LENGTH} characters"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `AuditLog`."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "MaxFileSize": "the script decides that itself now (a new file begins after 64 MB)",
    }

    key: str | None = dataclasses.field(
        default=None,
        metadata={
            "secret": True,
            "check": wrong_key,
            "help": (
                "Secret of the checksums (HMAC), at least 32 characters. null: one is made and kept in "
                "`audit_log.key` beside the index."
            ),
        },
    )
    path: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the log; null: `audit-log` in that of the index."}
    )
    watch_requests: bool | None = dataclasses.field(
        default=None,
        metadata={
            "help": (
                "Also write down who asks for images over HTTP. null: from plugin 5.0 on; the filter of older "
                "ones leaks memory."
            )
        },
    )
    keep_days: float | None = dataclasses.field(
        default=None,
        metadata={"minimum": 1, "help": "Days after which files are deleted, and a line says so; null: never."},
    )
    durability: str = durability_field("what is written survives", "each write waits")
    state_path: str | None = state_path_field()


def read_or_make_key(path: Path) -> str:
    """Return the key in a file, which is made, whole or not at all, if it is not there. Raises OSError."""
    make_private(path)
    if not path.exists() or not path.stat().st_size:  # an older version left it empty where the disk was full
        growing = path.with_name(f"{path.name}.new")
        with os.fdopen(open_private(growing, os.O_TRUNC), "r+") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        growing.replace(path)
    if wrong_key(key := path.read_text().strip()):
        raise OSError(f"{path} holds no key of at least {MIN_KEY_LENGTH} characters")
    return key
