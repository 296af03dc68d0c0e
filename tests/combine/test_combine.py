# SPDX-License-Identifier: AGPL-3.0-or-later
"""combine.py as a command: what it takes, what it writes, what it refuses."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.combine.observe import Observer, observing

module: Any = importlib.import_module("combine")  # the built file, which is one module
COMBINE = Path(__file__).parents[2] / "combine.py"
PLUGIN = "7.1"


@pytest.fixture(scope="module")
def observer() -> Iterator[Observer]:
    with observing() as one:
        yield one


def run(*words: Path | str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, COMBINE, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def combined(*words: Path | str, to: Path) -> Path:
    result = run(*words, "-o", to)
    assert (result.returncode, result.stderr) == (0, "")
    return to


def write(folder: Path, files: dict[str, str | bytes]) -> list[Path]:
    """Write files into `folder`, by their paths in it."""
    paths = []
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        paths.append(path)
    return paths


# -- the file ------------------------------------------------------------------------------------------------------


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
    text = combined(*paths, to=tmp_path / "combined.py").read_text()
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
    combined(a, b, "--allow-conflict", to=tmp_path / "combined.py")
    head = (tmp_path / "combined.py").read_text().partition("\nfrom __future__")[0]
    assert "python3 combine.py a.py b.py --allow-conflict -o FILE" in head
    for path, version in ((a, "1.2"), (b, "-")):
        assert [path.name, version, hashlib.sha256(path.read_bytes()).hexdigest()] in [
            line.split()[1:] for line in head.splitlines()
        ]
    assert run("--list", tmp_path / "combined.py").stdout.split()[:2] == ["a.py", "1.2"]


def test_extracted_scripts_make_the_same_file_again(tmp_path: Path) -> None:
    write(tmp_path, {"x/a.py": "import helper", "x/helper.py": b"# coding: latin-1\n'\xe9'", "y/a.py": "y = 1\r\n"})
    first = combined(tmp_path / "x" / "a.py", tmp_path / "y" / "a.py", to=tmp_path / "first.py")
    assert run("--extract", first, tmp_path / "out").returncode == 0
    for source, out in (("x/a.py", "a.py"), ("x/helper.py", "helper.py"), ("y/a.py", "a_2/a.py")):
        assert (tmp_path / source).read_bytes() == (tmp_path / "out" / out).read_bytes()
    second = combined(tmp_path / "out" / "a.py", tmp_path / "out" / "a_2" / "a.py", to=tmp_path / "second.py")
    assert first.read_bytes() == second.read_bytes()


def test_extracting_overwrites_nothing_that_differs_and_stays_in_its_folder(tmp_path: Path) -> None:
    (a,) = write(tmp_path, {"a.py": "a = 1\n"})
    file = combined(a, to=tmp_path / "combined.py")
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
    file = combined(tmp_path / "a.py", tmp_path / "package", to=tmp_path / "combined.py")
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
    file = combined(a, to=tmp_path / "combined.py")
    file.write_text(file.read_text().replace("#| value = 1", "#| value = 2"))
    assert "a.py was edited inside the combined file" in run("--extract", file, tmp_path / "out").stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_git_gave_other_line_ends_still_works(tmp_path: Path, observer: Observer) -> None:
    (a,) = write(tmp_path, {"a.py": "import orthanc\northanc.LogWarning('loaded')\n"})
    file = combined(a, to=tmp_path / "combined.py")
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert observer(file, PLUGIN)["logs"] == [["warning", "[a] loaded"]]
    assert run("--extract", file, tmp_path / "out").returncode == 0


# -- what goes in --------------------------------------------------------------------------------------------------


def test_a_package_brings_its_modules_and_data_and_what_it_imports_beside_it(
    tmp_path: Path, observer: Observer
) -> None:
    write(
        tmp_path,
        {
            "away/package/__init__.py": (
                "import orthanc, importlib.resources, pkgutil\n"
                "from . import inner\n"
                "from .inner import deep\n"
                "import beside\n"
                "import package.inner as again\n"
                "data = importlib.resources.files(__package__)\n"
                "def tell():\n"
                "    from .lazy import word\n"
                "    return [__name__, deep.value, beside.value, again is inner, word,\n"
                "            data.joinpath('data/a.txt').read_text(), pkgutil.get_data('package', 'data/b.bin')[1],\n"
                "            sorted(p.name for p in data.iterdir())]\n"
                "orthanc.LogWarning(repr(tell()))\n"
            ),
            "away/package/lazy.py": "word = 'lazy'\n",
            "away/package/data/a.txt": "text",
            "away/package/data/b.bin": b"\0\xff",
            "away/package/.hidden": "",
            "away/beside.py": "import only.one as one\nvalue = one.value\n",
            "away/only/one.py": "value = 'a folder without __init__'\n",
        },
    )
    package = tmp_path / "away" / "package"
    write(package, {"inner/__init__.py": "from . import deep\n", "inner/deep.py": "value = 'deep'\n"})
    expected = ["package", "deep", "a folder without __init__", True, "lazy", "text", 255]
    for number, given_as in enumerate((package, package / "__init__.py")):
        seen = observer(combined(given_as, to=tmp_path / f"combined{number}.py"), PLUGIN)
        names = ["__init__.py", "data", "inner", "lazy.py"]
        assert seen["logs"] == [["warning", f"[package] {[*expected, names]!r}"]]


def test_two_scripts_with_one_helper_have_one_each_as_alone(tmp_path: Path, observer: Observer) -> None:
    text = "import orthanc, helper\nhelper.count()\northanc.LogWarning(str(helper.count()))\n"
    write(
        tmp_path,
        {"a.py": text, "b.py": text, "helper.py": "n = 0\ndef count():\n    global n\n    n += 1\n    return n\n"},
    )
    seen = observer(combined(tmp_path / "a.py", tmp_path / "b.py", to=tmp_path / "c.py"), PLUGIN)
    assert seen["logs"] == [["warning", "[a] 2"], ["warning", "[b] 2"]]


def test_a_script_that_imports_another_one_of_the_file_gets_that_one(tmp_path: Path, observer: Observer) -> None:
    write(
        tmp_path,
        {
            "a.py": "import orthanc, b\nb.names.append('a')\northanc.LogWarning(str(b.names))\n",
            "b.py": "import orthanc\nnames = []\northanc.LogWarning('once')\n",
        },
    )
    seen = observer(combined(tmp_path / "a.py", tmp_path / "b.py", to=tmp_path / "c.py"), PLUGIN)
    assert seen["logs"] == [["warning", "[b] once"], ["warning", "[a] ['a']"]]


def test_a_package_of_the_file_is_there_for_the_other_scripts_wherever_it_lies(
    tmp_path: Path, observer: Observer
) -> None:
    write(
        tmp_path,
        {
            "mine/a.py": "import orthanc, events\nevents.names.append('a')\northanc.LogWarning(str(events.names))\n",
            "collection/events/__init__.py": "import events.inner\nnames = [__name__]\n",
            "collection/events/inner.py": "",
        },
    )
    paths = [tmp_path / "mine" / "a.py", tmp_path / "collection" / "events"]
    seen = observer(combined(*paths, to=tmp_path / "c.py"), PLUGIN)
    assert seen["logs"] == [["warning", "[a] ['events', 'a']"]]


def test_a_script_that_bears_the_name_of_the_library_that_it_imports_gets_the_library(
    tmp_path: Path, observer: Observer
) -> None:
    write(
        tmp_path,
        {
            "in/pydicom.py": "import orthanc, pydicom\northanc.LogWarning(str(hasattr(pydicom, 'dcmread')))\n",
            "other/b.py": "import orthanc, pydicom\northanc.LogWarning(str(hasattr(pydicom, 'dcmread')))\n",
        },
    )
    seen = observer(combined(tmp_path / "in" / "pydicom.py", tmp_path / "other" / "b.py", to=tmp_path / "c.py"), PLUGIN)
    assert seen["logs"] == [["warning", "[pydicom_2] True"], ["warning", "[b] True"]]


def test_a_script_named_as_a_library_does_not_hide_it_from_the_others(tmp_path: Path, observer: Observer) -> None:
    write(
        tmp_path,
        {
            "in/random.py": "import orthanc, queue\northanc.LogWarning(__name__ + queue.mine)\n",
            "in/queue.py": "mine = ' has a queue of its own'\n",
            "other/b.py": "import orthanc, random, queue\northanc.LogWarning(str((random.choice([1]), queue.Queue().qsize())))\n",
        },
    )
    seen = observer(combined(tmp_path / "in" / "random.py", tmp_path / "other" / "b.py", to=tmp_path / "c.py"), PLUGIN)
    assert seen["logs"] == [["warning", "[random_2] random_2 has a queue of its own"], ["warning", "[b] (1, 0)"]]


def test_a_script_may_have_the_name_of_the_combined_file(tmp_path: Path, observer: Observer) -> None:
    write(
        tmp_path,
        {
            "in/combined.py": (
                "import orthanc, pickle\nclass C:\n    pass\n"
                "orthanc.LogWarning(__name__ + str(type(pickle.loads(pickle.dumps(C()))) is C))\n"
            )
        },
    )
    seen = observer(combined(tmp_path / "in" / "combined.py", to=tmp_path / "combined.py"), PLUGIN)
    assert seen["logs"] == [["warning", "[combined] combinedTrue"]]


def test_no_bundle_leaves_out_what_scripts_import(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "import helper\n", "helper.py": "x = 1\n"})
    combined(tmp_path / "a.py", "--no-bundle", to=tmp_path / "c.py")
    assert "helper.py" not in run("--list", tmp_path / "c.py").stdout


def test_what_stands_under_main_is_neither_run_nor_a_conflict(tmp_path: Path, observer: Observer) -> None:
    text = "import orthanc\nif __name__ == '__main__':\n    orthanc.RegisterMoveCallback(1 / 0)\northanc.LogWarning(__name__)\n"
    paths = write(tmp_path, {"a.py": text, "b.py": text})
    seen = observer(combined(*paths, to=tmp_path / "c.py"), PLUGIN)
    assert seen["logs"] == [["warning", "[a] a"], ["warning", "[b] b"]]


def test_a_library_that_a_script_loads_gets_the_script_s_orthanc(tmp_path: Path, observer: Observer) -> None:
    write(tmp_path, {"library/tool.py": "import orthanc\ndef log(text):\n    orthanc.LogWarning(text)\n"})
    text = f"import sys\nsys.path.append({str(tmp_path / 'library')!r})\nimport tool\ntool.log('hello')\n"
    (a,) = write(tmp_path, {"a.py": text})
    assert observer(combined(a, to=tmp_path / "c.py"), PLUGIN)["logs"] == [["warning", "[a] hello"]]


# -- what is refused -----------------------------------------------------------------------------------------------


def refused(result: subprocess.CompletedProcess[str]) -> str:
    assert (result.returncode, result.stderr.count("\n"), result.stdout) == (2, 1, ""), result.stderr
    return result.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-o", "out.py"], "name the scripts"),
        ([], "name the scripts"),
        (["good.py"], "-o combined.py"),
        (["--wrong"], "--wrong"),
        (["folder", "-o", "out.py"], "without __init__.py"),
        (["wrong.py", "-o", "out.py"], "wrong.py, line 3: "),
        (["binary.py", "-o", "out.py"], "binary.py"),
        (["latin.py", "-o", "out.py"], "latin.py"),
        (["missing.py", "-o", "out.py"], "missing.py can't be read"),
        (["text.txt", "-o", "out.py"], "must end with .py"),
        (["orthanc.py", "-o", "out.py"], "can't load a script of this name"),
        (["two.dots.py", "-o", "out.py"], "can't load a script of this name"),
        (["good.py", "good.py", "-o", "out.py"], "good.py is given twice"),
        (["good.py", "folder/../good.py", "-o", "out.py"], "is given twice"),
        (["good.py", "-o", "nowhere/out.py"], "can't be written"),
        (["good.py", "-o", "folder"], "can't load a script of this name"),
        (["good.py", "-o", "good.py"], "left as it is"),
        (["good.py", "-o", "orthanc.py"], "can't load a script of this name"),
        (["imports.py", "-o", "out.py"], "bad.py, line 1"),
        (["combined.py", "-o", "out.py"], "is a combined file"),
        (["--list", "good.py"], "was not made by combine.py"),
        (["--verify", "missing.py"], "can't be read"),
    ],
)
def test_bad_input_is_one_line_status_2_and_no_output(tmp_path: Path, words: list[str], expected: str) -> None:
    write(
        tmp_path,
        {
            "good.py": "x = 1\n",
            "wrong.py": "x = 1\n\ny = (\n",
            "binary.py": b"\x7fELF\0\1\2",
            "latin.py": b"x = '\xe9'\n",
            "text.txt": "x = 1\n",
            "orthanc.py": "x = 1\n",
            "two.dots.py": "x = 1\n",
            "folder/x.py": "x = 1\n",
            "imports.py": "import bad\n",
            "bad.py": "1 +\n",
            "combined.py": module.MARK + "\n",
        },
    )
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert expected in refused(run(*words, cwd=tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_combined_file_is_left_as_it_was_when_the_next_one_fails(tmp_path: Path) -> None:
    good, wrong = write(tmp_path, {"good.py": "x = 1\n", "wrong.py": "x = (\n"})
    before = combined(good, to=tmp_path / "out.py").read_bytes()
    refused(run(good, wrong, "-o", tmp_path / "out.py"))
    assert (tmp_path / "out.py").read_bytes() == before


ROUTE = "import orthanc as o\nP = '/a'\no.RegisterRestCallback({}, print)\n"


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (ROUTE.format("'/a'"), ROUTE.format("'/a'"), "a.py, line 3 and b.py, line 3: the same route (/a)"),
        (ROUTE.format("'/a/(.*)'"), ROUTE.format("P + '/b'"), "/a/(.*) and /a/b"),
        (ROUTE.format("f'{P}/x/[0-9]+'"), ROUTE.format("'/a/(.*)/(.*)'"), "/a/x/[0-9]+ and /a/(.*)/(.*)"),
        (ROUTE.format("'/a/([^/]+)'"), ROUTE.format("'/a/(b|c)'"), "/a/([^/]+) and /a/(b|c)"),
        (ROUTE.format("'/a/([0-9a-f-]{44})'"), ROUTE.format("'/a/([0-9a-f-]+)'"), "the same route"),
        (ROUTE.format("'/a/([0-9]+)'"), ROUTE.format("'/a/x'"), None),
        (ROUTE.format("'/a'"), ROUTE.format("'/b'"), None),
        (ROUTE.format("'/a'"), ROUTE.format("'/a/(.*)'"), None),
        (
            "from orthanc import RegisterMoveCallback as move\nmove(print)\n",
            "import orthanc\northanc.RegisterMoveCallback2(1, 2, 3, 4)\n",
            "a.py, line 2 and b.py, line 2: only one script can have RegisterMoveCallback and RegisterMoveCallback2",
        ),
        (
            "import orthanc\northanc.RegisterStorageCommitmentScpCallback(1, 2)\n",
            "import orthanc\northanc.RegisterStorageCommitmentScpCallback2(1, 2)\n",
            "a.py, line 2 and b.py, line 2",
        ),
        (
            "import orthanc\northanc.RegisterOnChangeCallback(1)\northanc.RegisterErrorCode(1, 2, '')\n",
            "import orthanc\northanc.RegisterOnChangeCallback(1)\northanc.RegisterErrorCode(1, 2, '')\n",
            None,
        ),
    ],
)
def test_conflicts_name_both_scripts_and_lines(tmp_path: Path, first: str, second: str, expected: str | None) -> None:
    paths = write(tmp_path, {"a.py": first, "b.py": second})
    result = run(*paths, "-o", tmp_path / "out.py")
    if expected is None:
        assert result.returncode == 0, result.stderr
    else:
        assert expected in refused(result)
        assert not (tmp_path / "out.py").exists()
        assert run(*paths, "--allow-conflict", "-o", tmp_path / "out.py").returncode == 0


def test_two_packages_of_one_name_and_helpers_of_one_name_that_differ_are_refused(tmp_path: Path) -> None:
    for one in ("x", "y"):
        write(tmp_path, {f"{one}/p/__init__.py": f"name = '{one}'\n"})
        write(tmp_path, {f"{one}/{one}.py": "import helper\n", f"{one}/helper.py": f"# {one}\n"})
    out = tmp_path / "out.py"
    assert "two packages of one name" in refused(run(tmp_path / "x" / "p", tmp_path / "y" / "p", "-o", out))
    assert "import different files named helper.py" in refused(
        run(tmp_path / "x" / "x.py", tmp_path / "y" / "y.py", "-o", out)
    )


# -- the configuration ---------------------------------------------------------------------------------------------

SCRIPT = """\
import dataclasses
SECTION = "AutoTest"
NAME, NUMBER = "Thumb", 2000
def start(configuration):
    return user_number(configuration, "UserMetadata", NAME, NUMBER)
@dataclasses.dataclass(frozen=True)
class Retry:
    first: float = 1
@dataclasses.dataclass(frozen=True)
class Rule:
    name: str = ""
@dataclasses.dataclass(frozen=True)
class Settings:
    destinations: tuple[str, ...] = ()
    max_per_destination: int | None = None
    retry: Retry = Retry()
    rules: tuple[Rule, ...] = ()
    url: str = dataclasses.field(default="", metadata={"key": "URL", "help": "where"})
"""
TAGS = 'SECTION = "SeriesMainPrivateDicomTags"\n'
FINE = """{
  // comments of both kinds, and "quotes" in them
  "PythonScript": "/etc/orthanc/combined.py", /* here
  too */ "HttpPort": ${PORT:-8042},
  "Name": "http://a//b /* no comment */",
  "AutoTest": {"Destinations": ["A"], "MaxPerDestination": null, "Retry": {"First": 1}, "URL": "x",
               "Rules": [{"Name": "one"}]},
  "UserMetadata": {"Thumb": 2000, "Other": [2001, "text/plain"]},
  "Dictionary": {"0009,1001": ["LO", "MyTag", 1, 1, "ME"]},
  "SeriesMainPrivateDicomTags": ["!!MyTag", "0009,1002", "0009,1003:ME"]
}"""


def test_a_configuration_that_is_fine_says_nothing(tmp_path: Path) -> None:
    paths = write(tmp_path, {"a.py": SCRIPT, "b.py": TAGS, "orthanc.json": FINE})
    result = run(*paths[:2], "--config", paths[2])
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    parts = json.loads("{" + FINE.partition('/b /* no comment */",')[2])
    write(tmp_path, {"etc/a.json": '{"PythonScript": "x.py"} // a part', "etc/b.json": json.dumps(parts)})
    assert run(*paths[:2], "--config", tmp_path / "etc").returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"PythonScript": "/etc/orthanc/combined.py"', '"P": ""', 'add: "PythonScript": "/etc/orthanc/combined.py"'),
        ('"AutoTest"', '"autoTest"', "autoTest is no section; did you mean AutoTest?"),
        ('"Destinations"', '"Destination"', "AutoTest has no key Destination; did you mean Destinations?"),
        ('"First"', '"Fist"', "AutoTest.Retry has no key Fist; did you mean First?"),
        ('[{"Name": "one"}]', '[{"Nam": "one"}]', "AutoTest.Rules[0] has no key Nam; did you mean Name?"),
        ('"URL": "x"', '"Url": "secret"', "AutoTest has no key Url; did you mean URL?"),
        ('"URL": "x"', '"Zzzz": "secret"', "no key Zzzz; known are Destinations, MaxPerDestination, Retry, Rules, URL"),
        ("null", '"secret"', "AutoTest.MaxPerDestination must be int or None, not str"),
        ('"Thumb": 2000, ', "", 'a.py wants a name in UserMetadata; add: "UserMetadata": {"Thumb": 2000}'),
        ('"Thumb": 2000', '"Thumb": 1000', "Thumb must be a number from 1024 to 65535"),
        ('"Thumb": 2000', '"Thumb": 2001', "Other and Thumb have the number 2001 both"),
        ('"MyTag", 1', '"YourTag", 1', 'MyTag is not in Dictionary; add: "Dictionary": {"gggg,eeee": ["LO", "MyTag"'),
    ],
)
def test_what_is_wrong_or_missing_in_a_configuration_is_told(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in FINE
    paths = write(tmp_path, {"a.py": SCRIPT, "b.py": TAGS, "orthanc.json": FINE.replace(old, new)})
    result = run(*paths[:2], "--config", paths[2], "-o", tmp_path / "out.py")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert expected in result.stderr
    assert "secret" not in result.stderr
    assert (tmp_path / "out.py").exists()


def test_a_configuration_that_is_no_json_is_told_with_its_line(tmp_path: Path) -> None:
    paths = write(tmp_path, {"a.py": "x = 1\n", "orthanc.json": '{\n  /* two\n lines */ "a": 1\n  "b": 2\n}'})
    assert "orthanc.json, line 4" in refused(run(paths[0], "--config", paths[1], "-o", tmp_path / "out.py"))
    assert not (tmp_path / "out.py").exists()


def test_combine_is_one_file_that_needs_nothing_beside_it(tmp_path: Path) -> None:
    (a,) = write(tmp_path, {"a.py": "x = 1\n"})
    alone = tmp_path / "container" / "combine.py"
    alone.parent.mkdir()
    alone.write_bytes(COMBINE.read_bytes())
    subprocess.run([sys.executable, "-I", "-S", alone, a, "-o", tmp_path / "one.py"], check=True)
    assert (tmp_path / "one.py").read_bytes() == combined(a, to=tmp_path / "two.py").read_bytes()
