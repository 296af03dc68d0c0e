# SPDX-License-Identifier: AGPL-3.0-or-later
"""combine.py as a command: what it says of a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.combine.helpers import refused, run, write

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
  "PythonScript": "/etc/orthanc/scripts/combined.py", /* here
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
        (
            '"PythonScript": "/etc/orthanc/scripts/combined.py"',
            '"P": ""',
            'add: "PythonScript": "/etc/orthanc/scripts/combined.py"',
        ),
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
    result = run(*paths[:2], "--config", paths[2], "-o", tmp_path / "combined.py")
    assert (result.returncode, result.stderr.count("\n")) == (1, 1), result.stderr
    assert expected in result.stderr
    assert "secret" not in result.stderr
    assert (tmp_path / "combined.py").exists()


def test_a_configuration_that_is_no_json_is_told_with_its_line(tmp_path: Path) -> None:
    paths = write(tmp_path, {"a.py": "x = 1\n", "orthanc.json": '{\n  /* two\n lines */ "a": 1\n  "b": 2\n}'})
    assert "orthanc.json, line 4" in refused(run(paths[0], "--config", paths[1], "-o", tmp_path / "combined.py"))
    assert not (tmp_path / "combined.py").exists()
