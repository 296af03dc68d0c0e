# SPDX-License-Identifier: AGPL-3.0-or-later
"""combine.py as a command: the file that it writes, and what comes back from it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from tests.combine.helpers import COMBINE, PLUGIN, module, run, write
from tests.combine.observe import Observer
from tests.scripts import combine_scripts


@given(st.one_of(st.binary(), st.text().map(lambda text: text.encode("utf-8", "replace"))))
@example(b"")
@example(b"\n")
@example(b"no newline at the end")
@example(b"one\r\ntwo\r\n")
@example(b"one\r\ntwo\n")
@example(b"one\rtwo")
@example(b"\xef\xbb\xbfimport orthanc\n")
@example(b"# coding: latin-1\n'\xe9'\n")
@example(b"# coding: nonsense\n")
@example(b"'''\"\"\"\\\n#| \n#= \n#|\n  \n \n")
@example("\x0c\x0b\x1c\x85\u2028 \u2029".encode())
def test_every_file_comes_back_byte_for_byte(data: bytes) -> None:
    text = f"# some code\n\n{module.pack(data, 'some name.py')}\n{module.pack(b'another', 'b.py')}"
    text.encode()
    assert set(module.unpack(text).values()) == {data, b"another"}


def test_what_is_text_stays_readable(tmp_path: Path) -> None:
    lines = ['s = """triple \'\'\' quotes"""', r"r = '\\ \n'", "Müller = '日本'"]
    crlf, bom = "\r\n".join(lines).encode(), "\ufeff".encode() + "\n".join(lines).encode()
    paths = write(tmp_path, {"a.py": "\n".join(lines), "b.py": crlf, "c.py": bom})
    text = combine_scripts(*paths, to=tmp_path / "combined.py").read_text()
    assert [text.count(f"\n#| {line}\n") for line in lines] == [3, 3, 3]


def test_the_same_input_gives_the_same_bytes_whatever_the_folder_the_clock_and_the_locale(tmp_path: Path) -> None:
    for folder in ("one", "two/deeper"):
        write(
            tmp_path / folder,
            {"a.py": "import helper\n", "helper.py": "é = 1\n", "package/__init__.py": "", "package/data.txt": "x"},
        )
    words = ["a.py", "package"]
    run(*words, "-o", "first.py", cwd=tmp_path / "one", LC_ALL="C", PYTHONHASHSEED="1", TZ="UTC")
    absolute = [str(tmp_path / "two" / "deeper" / word) for word in words]
    run(*absolute, "-o", tmp_path / "second.py", cwd=tmp_path, LC_ALL="C.UTF-8", PYTHONHASHSEED="2", TZ="Asia/Tokyo")
    assert (tmp_path / "one" / "first.py").read_bytes() == (tmp_path / "second.py").read_bytes()


def test_the_header_names_each_source_its_version_its_sha256_and_the_command(tmp_path: Path) -> None:
    a, b = write(tmp_path, {"a.py": "__version__ = '1.2'\n", "b.py": "x = 1\n"})
    combine_scripts(a, b, "--allow-conflict", to=tmp_path / "combined.py")
    head = (tmp_path / "combined.py").read_text().partition("\nfrom __future__")[0]
    assert "python3 combine.py a.py b.py --allow-conflict -o FILE" in head
    for path, version in ((a, "1.2"), (b, "-")):
        assert [path.name, version, hashlib.sha256(path.read_bytes()).hexdigest()] in [
            line.split()[1:] for line in head.splitlines()
        ]
    assert run("--list", tmp_path / "combined.py").stdout.split()[:2] == ["a.py", "1.2"]


def test_extracted_scripts_make_the_same_file_again(tmp_path: Path) -> None:
    write(tmp_path, {"x/a.py": "import helper", "x/helper.py": b"# coding: latin-1\n'\xe9'", "y/a.py": "y = 1\r\n"})
    first = combine_scripts(tmp_path / "x" / "a.py", tmp_path / "y" / "a.py", to=tmp_path / "first.py")
    assert run("--extract", first, tmp_path / "out").returncode == 0
    for source, out in (("x/a.py", "a.py"), ("x/helper.py", "helper.py"), ("y/a.py", "a_2/a.py")):
        assert (tmp_path / source).read_bytes() == (tmp_path / "out" / out).read_bytes()
    second = combine_scripts(tmp_path / "out" / "a.py", tmp_path / "out" / "a_2" / "a.py", to=tmp_path / "second.py")
    assert first.read_bytes() == second.read_bytes()


def test_extracting_overwrites_nothing_that_differs_and_stays_in_its_folder(tmp_path: Path) -> None:
    (a,) = write(tmp_path, {"a.py": "a = 1\n"})
    file = combine_scripts(a, to=tmp_path / "combined.py")
    write(tmp_path, {"out/a.py": "mine\n"})
    result = run("--extract", file, tmp_path / "out")
    assert result.returncode == 2
    assert "left as it is" in result.stderr
    assert (tmp_path / "out" / "a.py").read_text() == "mine\n"
    file.write_text(file.read_text().replace("'a.py'", "'../a.py'"))
    result = run("--extract", file, tmp_path / "elsewhere")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "would leave the folder" in result.stderr


def test_verify_tells_which_source_has_changed_since(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "import helper\n", "helper.py": "x = 1\n", "package/__init__.py": "", "package/x.py": ""})
    file = combine_scripts(tmp_path / "a.py", tmp_path / "package", to=tmp_path / "combined.py")
    assert (run("--verify", file).returncode, run("--verify", file, cwd=tmp_path).stdout) == (0, "unchanged\n")
    write(tmp_path, {"helper.py": "x = 2\n", "package/new.py": ""})
    (tmp_path / "package" / "x.py").unlink()
    result = run("--verify", file)
    assert result.returncode == 1
    assert result.stdout.splitlines() == ["helper.py: changed", "package/x.py: gone", "package/new.py: new"]
    (tmp_path / "away").mkdir()
    moved = file.rename(tmp_path / "away" / "combined.py")
    (tmp_path / "a.py").rename(tmp_path / "away.py")
    result = run("--verify", moved)
    assert result.returncode == 1
    assert "a.py: not found" in result.stdout


def test_a_combined_file_that_was_edited_is_refused(tmp_path: Path) -> None:
    (a,) = write(tmp_path, {"a.py": "value = 1\n"})
    file = combine_scripts(a, to=tmp_path / "combined.py")
    file.write_text(file.read_text().replace("#| value = 1", "#| value = 2"))
    assert "a.py was edited inside the combined file" in run("--extract", file, tmp_path / "out").stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_git_gave_other_line_ends_still_works(tmp_path: Path, observer: Observer) -> None:
    (a,) = write(tmp_path, {"a.py": "import orthanc\northanc.LogWarning('loaded')\n"})
    file = combine_scripts(a, to=tmp_path / "combined.py")
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert observer(file, PLUGIN)["logs"] == [["warning", "[a] loaded"]]
    assert run("--extract", file, tmp_path / "out").returncode == 0


def test_combine_is_one_file_that_needs_nothing_beside_it(tmp_path: Path) -> None:
    (a,) = write(tmp_path, {"a.py": "x = 1\n"})
    alone = tmp_path / "container" / "combine.py"
    alone.parent.mkdir()
    alone.write_bytes(COMBINE.read_bytes())
    subprocess.run([sys.executable, "-I", "-S", alone, a, "-o", tmp_path / "one.py"], check=True)
    assert (tmp_path / "one.py").read_bytes() == combine_scripts(a, to=tmp_path / "two.py").read_bytes()
