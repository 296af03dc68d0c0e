# SPDX-License-Identifier: AGPL-3.0-or-later
"""combine.py --config: a number, true or false may come from an environment variable, whose text is judged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.combine.helpers import run, write
from tests.combine.test_configuration import FINE, SCRIPT


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"MaxPerDestination": null', '"MaxPerDestination": "${MOST:-5}"', ""),
        ('"MaxPerDestination": null', '"MaxPerDestination": "${MOST_SET}"', ""),
        ('"MaxPerDestination": null', '"MaxPerDestination": "${MOST:-five}"', "MaxPerDestination must be int or None, not str"),
        ('"MaxPerDestination": null', '"MaxPerDestination": "5"', "MaxPerDestination must be int or None, not str"),
        ('"URL": "x"', '"URL": "${MOST:-5}"', ""),
    ],
)  # fmt: skip
def test_the_text_of_a_variable_is_judged_as_the_script_takes_it(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in FINE
    paths = write(tmp_path, {"a.py": SCRIPT, "orthanc.json": FINE.replace(old, new)})
    result = run(paths[0], "--config", paths[1], "-o", tmp_path / "combined.py", MOST_SET="7")
    assert expected in result.stderr
    assert result.stderr.count("\n") == (1 if expected else 0), result.stderr
