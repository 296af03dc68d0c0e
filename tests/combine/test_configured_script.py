# SPDX-License-Identifier: AGPL-3.0-or-later
"""combine.py --config: whether the configuration names the combined file; and what --help says of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.combine.helpers import run, write

PLAIN = {"a.py": "import orthanc\n", "b.py": "import orthanc\n"}


@pytest.mark.parametrize("given", ["{0}/etc/sample.py", "{0}/other/combined.py", "sample.py", "/nowhere/sample.py"])
def test_a_script_that_is_not_the_combined_file_is_named(tmp_path: Path, given: str) -> None:
    script = given.format(tmp_path)
    paths = write(tmp_path, {**PLAIN, "etc/sample.py": "", "other/combined.py": "", "etc/orthanc.json": ""})
    paths[-1].write_text(json.dumps({"PythonScript": script}))
    output = tmp_path / "etc" / "combined.py"
    result = run(*paths[:2], "-o", output, "--config", tmp_path / "etc")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"{tmp_path}/etc: PythonScript is {script}, not {output}\n"


@pytest.mark.parametrize("given", ["{0}/etc/combined.py", "combined.py", "/where/the/server/has/it/combined.py"])
def test_the_combined_file_is_fine_also_where_another_machine_has_it(tmp_path: Path, given: str) -> None:
    paths = write(tmp_path, {**PLAIN, "etc/orthanc.json": json.dumps({"PythonScript": given.format(tmp_path)})})
    for _ in range(2):  # the second time it is there
        result = run(*paths[:2], "-o", tmp_path / "etc" / "combined.py", "--config", tmp_path / "etc")
        assert (result.returncode, result.stderr) == (0, "")


def test_without_an_output_a_script_that_is_no_combined_file_is_named(tmp_path: Path) -> None:
    paths = write(tmp_path, {**PLAIN, "orthanc.json": json.dumps({"PythonScript": str(tmp_path / "a.py")})})
    result = run(*paths[:2], "--config", paths[2])
    assert (result.returncode, result.stderr) == (
        1,
        f"{paths[2]}: PythonScript is {tmp_path}/a.py, which is no combined file\n",
    )
    assert run(paths[0], "--config", paths[2]).returncode == 0  # that one alone
    assert run(*paths[:2], "-o", tmp_path / "c.py").returncode == 0
    paths[2].write_text(json.dumps({"PythonScript": str(tmp_path / "c.py")}))
    assert run(*paths[:2], "--config", paths[2]).returncode == 0


def test_help_has_an_example_and_says_what_is_needed_and_what_a_status_means() -> None:
    said = " ".join(run("--help").stdout.split())
    assert said.startswith("usage: combine.py SCRIPT [SCRIPT ...] -o FILE [--config PATH]")
    assert "Example: python3 combine.py auto_forward_modality.py " in said
    assert "where two scripts want the same route or callback, the first wins" in said
    assert "status 1 if something is wrong or missing, 2 if it can't be read" in said
