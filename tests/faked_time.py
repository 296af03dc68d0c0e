# SPDX-License-Identifier: AGPL-3.0-or-later
"""A clock that a test sets, for an Orthanc: Debian's faketime."""

from __future__ import annotations

from pathlib import Path


class FakedTime:
    """The clock of an Orthanc, by libfaketime; what counts seconds goes on as ever.

    Without `cached_seconds`, each look at the clock reads a file: an Orthanc with many threads gets forty times slower.
    """

    def __init__(self, folder: Path, cached_seconds: int = 0) -> None:
        cache = {"FAKETIME_CACHE_DURATION": str(cached_seconds)} if cached_seconds else {"FAKETIME_NO_CACHE": "1"}
        self._file = folder / "time"
        self.set("+0")
        library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        self.environment = {
            "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(self._file), **cache,
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip

    def set(self, offset: str) -> None:
        """`+1096d`, or `@1970-01-01 01:00:00`; the file is replaced, since Orthanc reads it at any moment."""
        new = self._file.with_suffix(".new")
        new.write_text(offset + "\n")
        new.replace(self._file)
