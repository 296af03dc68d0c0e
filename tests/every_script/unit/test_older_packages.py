# SPDX-License-Identifier: AGPL-3.0-or-later
"""The versions of packages that Debian 12 has: what pydicom and httpx name or return differently there."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any, ClassVar


def test_helpers_of_event_dispatcher_work_with_an_httpx_whose_check_gives_nothing_back(source: Any) -> None:
    helpers = source("event_dispatcher.helpers").first_instance
    answer = SimpleNamespace(raise_for_status=lambda: None, json=lambda: {"Instances": ["i1"]})  # as before httpx 0.25
    assert helpers("series", SimpleNamespace(get=lambda _path: answer)) == "i1"


def test_a_copy_is_written_whole_by_each_pydicom(source: Any) -> None:
    elements = source("anonymize_series.elements")

    class OldDataset:
        """Of pydicom 2, as far as a file is written."""

        file_meta: ClassVar[dict[int, object]] = {}

        def save_as(self, buffer: io.BytesIO, write_like_original: bool = True) -> None:
            buffer.write(b"like the original" if write_like_original else b"a whole file")

    class NewDataset(OldDataset):
        def save_as(
            self, buffer: io.BytesIO, /, __write_like_original: bool | None = None, *, enforce_file_format: bool = False
        ) -> None:
            buffer.write(b"a whole file" if enforce_file_format else b"like the original")

    assert elements.written(OldDataset()) == elements.written(NewDataset()) == b"a whole file"
