# SPDX-License-Identifier: AGPL-3.0-or-later
"""combine.py as a command: bad input and conflicts between scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.combine.helpers import module, refused, run, write
from tests.scripts import combine_scripts


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
    before = combine_scripts(good, to=tmp_path / "out.py").read_bytes()
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
