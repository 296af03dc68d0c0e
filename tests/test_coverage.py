# SPDX-License-Identifier: AGPL-3.0-or-later
"""Lines of built scripts are counted for the file in src/ that they come from."""

from __future__ import annotations

from pathlib import Path

from tests.coverage.__main__ import ROOT, built_lines, first_lines, origins, statements


def test_a_line_of_a_built_script_counts_for_its_source() -> None:
    built = (ROOT / "instance_dump.py").read_text().splitlines()
    line = next(number for number, text in enumerate(built, 1) if text.startswith("def register("))
    [origin] = origins(built_lines()["instance_dump.py"], [line])
    path, _, number = origin.rpartition(":")
    assert path == "src/instance_dump.py"
    assert (ROOT / path).read_text().splitlines()[int(number) - 1].startswith("def register(")


def test_each_script_has_its_lines() -> None:
    scripts = {path.name for path in ROOT.glob("*.py")}
    assert scripts <= built_lines().keys()


def test_a_statement_of_several_lines_counts_once(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("found = [\n    1,\n    2,\n]\n# nothing\n")
    assert statements(tmp_path / "one.py") == {1}
    assert first_lines(tmp_path / "one.py", {2, 3}) == {1}
