# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/state.py: file systems without locks, or with a server that is away; modes that can't be changed; where state lies."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from testing.standin import StandIn


def refusing(number: int) -> Any:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_at_all_it_works_and_says_what_to_make_sure_of(
    common: Any, path: Path, monkeypatch: pytest.MonkeyPatch, orthanc_standin: StandIn, number: int
) -> None:
    monkeypatch.setattr(common.state, "lock_file", refusing(number))
    common.state.StateLock(path).close()
    orthanc_standin.assert_logged("is on a file system without locks: make sure that one Orthanc alone uses it")


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES, errno.EDEADLK])
def test_where_another_has_the_lock_it_is_busy(
    common: Any, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(common.state, "lock_file", refusing(number))
    with pytest.raises(common.state.StateBusyError, match="set Folder of each to a folder of its own"):
        common.state.StateLock(path, "Folder")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EIO])
def test_a_server_of_locks_that_is_away_is_neither_busy_nor_without_locks(
    common: Any, path: Path, monkeypatch: pytest.MonkeyPatch, orthanc_standin: StandIn, number: int
) -> None:
    monkeypatch.setattr(common.state, "lock_file", refusing(number))
    before = len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(OSError, match=os.strerror(number)) as error:
        common.state.StateLock(path)
    assert not isinstance(error.value, common.state.StateError)
    assert orthanc_standin.logs == []
    assert len([*Path("/proc/self/fd").iterdir()]) == before


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.ESTALE])
def test_a_file_that_is_not_at_its_path_any_more_is_gone(
    common: Any, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    lock = common.state.StateLock(path)
    lock.check()
    monkeypatch.setattr(Path, "lstat", refusing(number))
    with pytest.raises(
        common.state.StateGoneError, match="was deleted or replaced while it was in use; restart Orthanc"
    ):
        lock.check()


def test_a_file_that_can_not_be_looked_at_for_a_moment_is_not_gone(
    common: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = common.state.StateLock(path)
    monkeypatch.setattr(Path, "lstat", refusing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)) as error:
        lock.check()
    assert not isinstance(error.value, common.state.StateError)


def test_a_mode_that_can_not_be_changed_is_said_and_the_state_is_used(
    common: Any, path: Path, monkeypatch: pytest.MonkeyPatch, orthanc_standin: StandIn
) -> None:
    """Kubernetes lets a group write, by `fsGroup`."""
    path.parent.mkdir()
    path.touch(0o600)
    path.chmod(0o660)
    monkeypatch.setattr(Path, "chmod", refusing(errno.EPERM))
    os.close(common.state.open_private(path))
    orthanc_standin.assert_logged(f"{path} can be read by others, and its mode can't be changed")


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o600, 0o400])
def test_nobody_but_the_owner_may_do_anything_with_it(common: Any, path: Path, mode: int) -> None:
    path.parent.mkdir()
    path.touch()
    path.chmod(mode)
    common.state.make_private(path)
    assert stat.S_IMODE(path.stat().st_mode) == (mode if mode in (0o600, 0o400) else 0o600)


def test_a_file_is_made_for_its_owner_alone_whatever_the_mask(common: Any, path: Path) -> None:
    path.parent.mkdir()
    before = os.umask(0)
    try:
        descriptor = common.state.open_private(path, os.O_APPEND)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o600
    os.write(descriptor, b"a")
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, b"b")
    os.close(descriptor)
    assert path.read_bytes() == b"ab"
    common.state.make_private(path.with_name("none"))
    assert not path.with_name("none").exists()


def test_a_lock_may_have_another_file_and_is_free_when_it_is_closed(common: Any, path: Path) -> None:
    other = path.parent / "deeper" / "own.lock"
    lock = common.state.StateLock(path, file=other)
    assert (lock.path, other.exists(), path.with_name(f"{path.name}.lock").exists()) == (other, True, False)
    with pytest.raises(common.state.StateBusyError):
        common.state.StateLock(path, file=other)
    lock.close()
    lock.close()
    common.state.StateLock(path, file=other).close()


def test_relative_folders_begin_where_the_configuration_lies(
    common: Any, orthanc_standin: StandIn, tmp_path: Path
) -> None:
    (tmp_path / "a.json").touch()
    orthanc_standin.returns["GetConfigurationPath"] = str(tmp_path / "a.json")
    assert common.state.configuration_folder() == tmp_path
    orthanc_standin.returns["GetConfigurationPath"] = str(tmp_path)
    assert common.state.configuration_folder() == tmp_path


def test_a_folder_that_is_there_is_used_and_one_that_is_not_is_made_with_those_above(
    common: Any, tmp_path: Path
) -> None:
    for _ in range(2):
        common.state.make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
