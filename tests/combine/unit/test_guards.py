# SPDX-License-Identifier: AGPL-3.0-or-later
"""combine.py without a server: what is in a combined file is what was put in, and nothing of it leaves its folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def combine(source_for_module: Any) -> Any:
    """The module of a name."""
    return lambda name: source_for_module(f"combine.{name}")


def combined(combine: Any, folder: Path, **files: bytes) -> Path:
    """A combined file that holds one script with these files, by their names with / for __."""
    contents = {name.replace("__", "/"): data for name, data in files.items()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    entry = {"file": "a.py", "folder": "", "version": None, "sha256": "0", "files": digests}
    blocks = [combine("writing").pack(data, name) for name, data in contents.items()]
    path = folder / "combined.py"
    text = "\n".join([combine("sources").MARK, f"SCRIPTS: list[dict[str, Any]] = {[entry]!r}", "", *blocks])
    path.write_bytes(text.encode())
    return path


def test_what_was_put_in_comes_out_as_it_was(combine: Any, tmp_path: Path) -> None:
    files = {
        "a.py": b"x = 1\r\ny = 2\r\n",
        "b.bin": bytes(range(256)),
        "p__c.py": "# ä\n".encode("latin-1"),
        "e.py": b"",
    }
    path = combined(combine, tmp_path, **files)
    assert combine("reading").extract(path, tmp_path / "out") == 0
    found = {
        each.relative_to(tmp_path / "out").as_posix(): each.read_bytes() for each in (tmp_path / "out").rglob("*.*")
    }
    assert found == {name.replace("__", "/"): data for name, data in files.items()}


@pytest.mark.parametrize("name", ["../x.py", "{here}/x.py", "p/../../x.py", "p//x.py", "..\\x.py", "c:x.py", "p/.."])
def test_a_file_that_would_leave_the_folder_is_refused(combine: Any, tmp_path: Path, name: str) -> None:
    path = combined(combine, tmp_path, **{name.format(here=tmp_path): b"x = 1\n"})
    with pytest.raises(combine("sources").CombineError, match="holds a file that would leave the folder"):
        combine("reading").extract(path, tmp_path / "out")
    assert [*tmp_path.rglob("x.py")] == []


def test_a_script_that_was_edited_inside_the_combined_file_is_refused(combine: Any, tmp_path: Path) -> None:
    path = combined(combine, tmp_path, **{"a.py": b"x = 1\n"})
    path.write_bytes(path.read_bytes().replace(b"#| x = 1", b"#| x = 2"))
    with pytest.raises(combine("sources").CombineError, match=r"a\.py was edited inside the combined file"):
        combine("reading").open_combined(path)


def test_a_file_that_is_there_with_other_content_is_left_and_so_are_the_others(combine: Any, tmp_path: Path) -> None:
    path = combined(combine, tmp_path, **{"a.py": b"x = 1\n", "b.py": b"y = 1\n"})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.py").write_bytes(b"mine")
    with pytest.raises(
        combine("sources").CombineError, match=r"b\.py is there with other content: it is left as it is"
    ):
        combine("reading").extract(path, tmp_path / "out")
    assert {each.name: each.read_bytes() for each in (tmp_path / "out").iterdir()} == {"b.py": b"mine"}


def test_a_combined_file_is_written_wholly_or_not_at_all(combine: Any, tmp_path: Path) -> None:
    target = tmp_path / "combined.py"
    combine("writing").write(target, "x = 1\n")
    assert target.read_bytes() == b"x = 1\n"
    with pytest.raises(UnicodeEncodeError):
        combine("writing").write(target, "x = '\ud800'\n")
    assert target.read_bytes() == b"x = 1\n"
    (tmp_path / "folder").mkdir()
    with pytest.raises(combine("sources").CombineError, match="can't be written: Is a directory"):
        combine("writing").write(tmp_path / "folder", "x = 1\n")
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".folder")] == []


def test_a_key_in_two_files_of_the_configuration_is_refused_as_orthanc_does(combine: Any, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"Name": "A"}')
    (tmp_path / "b.json").write_text('{"Port": 1} // a comment')
    read = combine("configuration").read_configuration
    assert read(tmp_path) == {"Name": "A", "Port": 1}
    (tmp_path / "b.json").write_text('{"Name": "B"}')
    with pytest.raises(combine("sources").CombineError, match=r"b\.json: Name stands in another file"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("number", "is_wrong"), [(1023, True), (1024, False), (65535, False), (65536, True), (True, True)]
)
def test_a_number_of_metadata_that_orthanc_refuses_is_named(combine: Any, number: Any, is_wrong: bool) -> None:
    check = combine("configuration").check_metadata
    said = ["UserMetadata: X must be a number from 1024 to 65535"] if is_wrong else []
    assert [*check({"X": number}, [])] == said
    assert [*check({"X": [number, "text/plain"]}, [])] == said


def test_two_names_of_metadata_with_one_number_are_named(combine: Any) -> None:
    check = combine("configuration").check_metadata
    assert [*check({"X": 2000, "Y": 2000}, [])] == ["UserMetadata: Y and X have the number 2000 both"]
