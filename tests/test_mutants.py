# SPDX-License-Identifier: AGPL-3.0-or-later
"""The tables of `make mutate`: each row is one change of one place, so that none is lost when sources move."""

from __future__ import annotations

import ast
import collections
from pathlib import Path

import pytest

from tests.mutants import HERE, every_mutant, tables_of_folders


@pytest.mark.parametrize("path", tables_of_folders(), ids=lambda path: path.parent.name)
def test_no_row_is_in_a_table_twice(path: Path) -> None:
    """Python keeps the last of two, without a word."""
    tables = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Dict)]
    keys = [[ast.unparse(key) for key in table.keys if key] for table in tables]
    assert [key for each in keys for key, number in collections.Counter(each).items() if number > 1] == []


def test_what_a_row_changes_is_in_its_file_once_and_its_tests_are_there() -> None:
    found = {str(mutant): (HERE / mutant.file).read_text().count(mutant.old) for mutant in every_mutant()}
    assert {row: number for row, number in found.items() if number != 1} == {}
    assert [str(mutant) for mutant in every_mutant() if not (HERE / mutant.tests).is_file()] == []


SCRIPTS = sorted(
    [path.stem for path in HERE.glob("*.py")] + [path.parent.parent.name for path in HERE.glob("*/_common/__init__.py")]
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_guards_of_each_script_at_least_are_watched_by_tests_that_need_no_server(script: str) -> None:
    own = [mutant for mutant in every_mutant() if Path(mutant.file).with_suffix("").parts[1] == script]
    assert sum("/unit/" in mutant.tests for mutant in own) >= 2
