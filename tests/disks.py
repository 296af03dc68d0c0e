# SPDX-License-Identifier: AGPL-3.0-or-later
"""What keeps a program from writing its files: a full disk, and a lock on a database."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Fill the disk of a folder to its last byte."""
    ballast = folder / "ballast"
    try:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        yield
    finally:
        ballast.unlink()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program holds a lock on a ledger."""
    holder = sqlite3.connect(path, isolation_level=None)
    try:
        holder.execute("BEGIN EXCLUSIVE")
        yield
    finally:
        holder.close()
