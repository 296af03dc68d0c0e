# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/contain.py: what a script contains is whole, and meets nothing of the script's own."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from common import contain

BLOCK = "# <<<cog\n# x\n# >>>\n# <<<end>>>\n"


def script(tmp_path: Path, head: str) -> Path:
    path = tmp_path / "script.py"
    path.write_text(f"{head}\n{BLOCK}")
    return path


def test_a_piece_comes_with_its_origin_and_its_hash_and_without_its_imports(tmp_path: Path) -> None:
    text = contain.block(script(tmp_path, "import datetime\nimport re\n"), ("days",))
    source = (Path(contain.__file__).parent / "days.py").read_bytes()
    assert f"# common/days.py, SHA-256 {hashlib.sha256(source).hexdigest()}\n" in text
    assert "def parse_day" in text
    assert "import re\n" not in text


def test_a_missing_import_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(contain.ContainError, match=r"script\.py contains common/days\.py and needs on top: import re"):
        contain.block(script(tmp_path, "import datetime\n"), ("days",))


def test_an_import_that_may_fail_is_an_import(tmp_path: Path) -> None:
    head = "import datetime\ntry:\n    import re\nexcept ImportError:\n    re = None\n"
    assert "def parse_day" in contain.block(script(tmp_path, head), ("days",))


def test_a_piece_that_needs_another_is_refused_without_it(tmp_path: Path) -> None:
    head = (
        (Path(contain.__file__).parent / "feed.py").read_text().partition("FEED_TABLES")[0].replace("from common", "# ")
    )
    with pytest.raises(contain.ContainError, match=r"contains common/feed\.py and must contain too: .*common\.ledger"):
        contain.block(script(tmp_path, head), ("feed",))


def test_two_things_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(contain.ContainError, match=r"parse_day is defined in script\.py and in common/days\.py"):
        contain.block(script(tmp_path, "import datetime\nimport re\nparse_day = 1\n"), ("days",))


def test_every_root_script_that_contains_pieces_is_in_sync() -> None:
    root = Path(contain.__file__).parent.parent
    for path in root.glob("*.py"):
        text = path.read_text()
        if "common.contain.emit(" not in text:
            continue
        pieces = (
            text.partition("common.contain.emit(")[2]
            .partition(")")[0]
            .replace("#", "")
            .replace('"', "")
            .replace(",", " ")
            .split()
        )
        assert contain.block(path, tuple(pieces)) in text, f"{path.name}: run make sync"
