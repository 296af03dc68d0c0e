# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/append_only.py: a line is there whole, or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Open = Callable[..., Any]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lines"


@pytest.fixture
def open_file(source: Any, path: Path) -> Iterator[Open]:
    opened: list[Any] = []

    def make(**more: Any) -> Any:
        opened.append(source("common.append_only").AppendOnly(path, **more))
        return opened[-1]

    yield make
    for file in opened:
        file.close()


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, room: int = 5) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, place: whole(file, data[:room], place))


LONG = b"x" * 200_000
LINES = [
    (b"", b""),
    (b"a\n", b"a\n"),
    (b"a", b""),
    (b"a\nb", b"a\n"),
    (LONG, b""),
    (b"a\n" + LONG, b"a\n"),
    (LONG + b"\n" + LONG, LONG + b"\n"),
]


@pytest.mark.parametrize("is_ours", [True, False])
@pytest.mark.parametrize(("before", "after"), LINES)
def test_a_torn_last_line_is_cut_off(
    open_file: Open, path: Path, before: bytes, after: bytes, *, is_ours: bool
) -> None:
    path.write_bytes(before)
    file = open_file(is_ours=is_ours)
    assert path.read_bytes() == after
    assert file.size == len(after)
    file.append(b"c\nd\n")
    assert path.read_bytes() == after + b"c\nd\n"
    assert file.size == len(after) + 4


@pytest.mark.parametrize(("before", "after"), [(b"a\n", b"a\n"), (b"a\nb", b"a\nb\n"), (b"", b"")])
def test_a_torn_last_line_that_is_evidence_is_ended(open_file: Open, path: Path, before: bytes, after: bytes) -> None:
    path.write_bytes(before)
    open_file(keep_torn=True)
    assert path.read_bytes() == after


@pytest.mark.parametrize("is_ours", [True, False])
def test_what_finds_no_room_leaves_nothing(
    open_file: Open, path: Path, monkeypatch: pytest.MonkeyPatch, *, is_ours: bool
) -> None:
    file = open_file(is_ours=is_ours)
    file.append(b"a\n")
    with monkeypatch.context() as full:
        fill_the_disk(full)
        with pytest.raises(OSError, match=r"No space left on device.*lines"):
            file.append(b"bb\ncc\ndd\n")
        assert path.read_bytes() == b"a\n"
    file.append(b"e\n")
    assert path.read_bytes() == b"a\ne\n"


def test_what_could_not_be_cut_off_is_cut_off_before_the_next_line(
    open_file: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = open_file()
    file.append(b"a\n")

    def fail(_file: int, _size: int) -> None:
        raise OSError("because of the test")

    with monkeypatch.context() as full:
        fill_the_disk(full)
        full.setattr(os, "ftruncate", fail)
        for _ in range(2):
            with pytest.raises(OSError, match=r"No space|because of the test"):
                file.append(b"bb\ncc\ndd\n")
    assert path.read_bytes() == b"a\nbb\ncc"
    assert file.size == 2
    file.append(b"e\n")
    assert path.read_bytes() == b"a\ne\n"


def test_what_can_not_be_synced_is_not_there(
    open_file: Open, path: Path, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, synced = open_file(synced=True), []

    def sync(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 1:
            raise OSError("because of the test")

    monkeypatch.setattr(source("common.append_only"), "SYNC", sync)
    file.append(b"a\n")
    with pytest.raises(OSError, match="because of the test"):
        file.append(b"b\n")
    assert len(synced) == 2
    assert path.read_bytes() == b"a\n"


def test_only_its_owner_reads_what_is_ours(open_file: Open, path: Path) -> None:
    path.write_bytes(b"a\n")
    path.chmod(0o644)
    open_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_ours_is_not_opened_through_a_link(open_file: Open, path: Path) -> None:
    path.symlink_to(path.with_name("other"))
    with pytest.raises(OSError, match="is a symbolic link"):
        open_file()
    open_file(is_ours=False).append(b"a\n")
    assert path.with_name("other").read_bytes() == b"a\n"


def test_the_mode_that_a_person_gave_it_stays_and_a_new_one_is_private(open_file: Open, path: Path) -> None:
    open_file(is_ours=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    open_file(is_ours=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_what_was_deleted_or_replaced_is_refused_where_it_is_ours(open_file: Open, path: Path) -> None:
    file, other = open_file(), open_file(is_ours=False)
    path.rename(path.with_name("rotated"))
    other.append(b"a\n")
    with pytest.raises(OSError, match="was deleted or replaced"):
        file.append(b"b\n")
    assert path.with_name("rotated").read_bytes() == b"a\n"


@pytest.mark.parametrize("is_ours", [True, False])
def test_after_a_program_has_emptied_it_lines_begin_at_its_beginning(
    open_file: Open, path: Path, *, is_ours: bool
) -> None:
    file = open_file(is_ours=is_ours)
    file.append(b"aaaa\n")
    os.truncate(path, 0)
    file.append(b"b\n")
    assert path.read_bytes() == b"b\n"


def test_what_others_add_stays_where_they_may(open_file: Open, path: Path) -> None:
    file = open_file(is_ours=False)
    file.append(b"a\n")
    with path.open("ab") as other:
        other.write(b"theirs\n")
    file.append(b"b\n")
    assert path.read_bytes() == b"a\ntheirs\nb\n"


def test_it_is_emptied_and_moved_into_the_place_of_another(open_file: Open, path: Path) -> None:
    path.write_bytes(b"a\nb")
    file = open_file(empty=True)
    assert path.read_bytes() == b""
    file.append(b"c\n")
    file.move(path.with_name("other"))
    file.append(b"d\n")
    assert path.with_name("other").read_bytes() == b"c\nd\n"
    assert file.read(2, 2) == b"d\n"


def test_it_needs_nothing_of_posix(open_file: Open, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pwrite")
    path.write_bytes(b"a\nb")
    file = open_file()
    file.append(b"c\n")
    assert path.read_bytes() == b"a\nc\n"


@pytest.mark.parametrize(
    ("header", "user"),
    [
        ("", ""),
        ("Basic YWxpY2U6c2VjcmV0", "alice"),
        ("basic YWxpY2U=", "alice"),
        ("Basic !", ""),
        ("Basic YQpiOng=", "a b"),
        ("Bearer secret", "(Bearer)"),
        ("secret", ""),
    ],
)
def test_the_user_of_a_request_is_its_name_and_nothing_secret(source: Any, header: str, user: str) -> None:
    assert source("common.requester").user_of(header) == user
