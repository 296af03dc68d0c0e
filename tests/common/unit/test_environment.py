# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/environment.py: values of the configuration that Orthanc has taken from environment variables."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from testing.standin import StandIn

NEW_VARIABLES = {
    "WEEKS": "5",
    "SURE": "true",
    "HALF": "0.5",
    "WORD": "abc",
    "PASSWORD_OF_ALL": "opensesame",
    "NOTHING": "",
}


@dataclasses.dataclass(frozen=True)
class Broker:
    password: str = field(default="", metadata={"secret": True})
    port: int = 1


@dataclasses.dataclass(frozen=True)
class Section:
    number: int = field(default=1, metadata={"minimum": 1, "maximum": 9})
    part: float = 1
    on: bool = False
    text: str | None = None
    pin: int | None = field(default=None, metadata={"secret": True})
    choice: str = field(default="a", metadata={"choices": ("a", "b")})
    list: tuple[int, ...] = ()
    free: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict, metadata={"texts": ("Host",)})
    undated: Any = field(default=False, metadata={"texts": ()})
    broker: dict[str, Any] | None = field(default=None, metadata={"read_later": True})


Read = Callable[[str], Any]
ErrorOf = Callable[[str], str]


@pytest.fixture
def read(
    source: Callable[[str], ModuleType], orthanc_standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Read:
    """Read a section as it is written, in a file in which Orthanc has put the variables by its own rule."""
    for name, value in NEW_VARIABLES.items():
        monkeypatch.setenv(name, value)
    orthanc_standin.returns["GetConfigurationPath"] = str(tmp_path / "orthanc.json")
    settings = source("common.settings")

    def read(written: str) -> Any:
        others = '// it has "${UNSET}" in a comment\n"Name": "${UNSET_TOO}", "HttpPort": ${P:-8042}'
        (tmp_path / "orthanc.json").write_text(f'{{{others}, "Our": {written},}}')
        put_in = re.sub(r"\$\{(\w+)(?::-\"?([^}\"]*)\"?)?\}", lambda m: NEW_VARIABLES.get(m[1], m[2] or ""), written)
        return settings.read_settings(Section, "Our", {"Our": json.loads(put_in)})

    return read


@pytest.fixture
def error_of(read: Read) -> ErrorOf:
    def error(written: str) -> str:
        with pytest.raises(ValueError, match=r"^Our") as caught:
            read(written)
        return str(caught.value)

    return error


@pytest.mark.parametrize(
    ("written", "key", "expected"),
    [
        ('{"Number": "${WEEKS}"}', "number", 5),
        ('{"Number": "${UNSET:-7}"}', "number", 7),
        ('{"Number": "${WEEKS:-7}"}', "number", 5),
        ('{"Number": ${UNSET:-7}}', "number", 7),
        ('{"Number": "${UNSET:-"7"}"}', "number", 7),
        ('{"Part": "${HALF}"}', "part", 0.5),
        ('{"Part": "${WEEKS}"}', "part", 5.0),
        ('{"On": "${SURE}"}', "on", True),
        ('{"On": "${UNSET:-false}"}', "on", False),
        ('{"Text": "${WEEKS}"}', "text", "5"),
        ('{"Text": "a${WEEKS}b${WORD}"}', "text", "a5babc"),
        ('{"Pin": "${WEEKS}"}', "pin", 5),
        ('{"List": ["${WEEKS}", 2]}', "list", (5, 2)),
        ('{"Free": {"Weeks": "${WEEKS}", "In": ["${SURE}"]}}', "free", {"Weeks": "5", "In": ["true"]}),
        ('{"Options": {"Host": "${WEEKS}", "Port": "${WEEKS}"}}', "options", {"Host": "5", "Port": 5}),
        ('{"Undated": "${SURE}"}', "undated", True),
        ('{"Undated": "${WORD}"}', "undated", "abc"),
        ('{"Text": "${UNSET:-}x"}', "text", "x"),
    ],
)
def test_a_variable_may_be_wherever_a_value_is(read: Read, written: str, key: str, expected: Any) -> None:
    found = getattr(read(written), key)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ('{"Number": "${WORD}"}', 'Number: found "abc" from {of} WORD, allowed: {whole}'),
        ('{"Number": "1${WEEKS}"}', 'Number: found "15" from {of} WEEKS, allowed: {whole}'),
        ('{"Number": "${HALF}"}', 'Number: found "0.5" from {of} HALF, allowed: {whole}'),
        ('{"Part": "0${WEEKS}"}', 'Part: found "05" from {of} WEEKS, allowed: a number'),
        ('{"On": "${WEEKS}"}', 'On: found "5" from {of} WEEKS, allowed: true or false'),
        (
            '{"On": "${WORD}${WEEKS}"}',
            'On: found "abc5" from the environment variables WORD, WEEKS, allowed: true or false',
        ),
        ('{"Choice": "${WORD}"}', 'Choice: found "abc" from {of} WORD, allowed: one of "a", "b"'),
        ('{"List": "${WEEKS}"}', 'List: found "5" from {of} WEEKS, allowed: a list'),
        ('{"Number": "${NOTHING}"}', "Number: {of} NOTHING is empty, allowed: {whole}"),
        ('{"Number": "${UNSET}"}', "Number: {of} UNSET is not set, allowed: {whole}"),
        ('{"Text": "${UNSET}"}', "Text: {of} UNSET is not set, allowed: a text"),
        ('{"Text": "a/${UNSET}/b"}', "Text: {of} UNSET is not set, allowed: a text"),
        (
            '{"Free": {"In": ["x", "b${UNSET}"]}}',
            "Free.In[1]: {of} UNSET is not set, allowed: a value, or one with a default",
        ),
        ('{"Number": "5"}', 'Number: found "5", allowed: {whole}'),
    ],
)
def test_a_wrong_one_is_named_with_its_key_and_what_is_allowed(error_of: ErrorOf, written: str, line: str) -> None:
    expected = line.format(whole="a whole number, at least 1, at most 9", of="the environment variable")
    assert error_of(written).startswith(f"Our.{expected}")


def test_the_value_of_a_secret_is_never_shown_and_its_variable_is(error_of: ErrorOf) -> None:
    said = error_of('{"Pin": "${PASSWORD_OF_ALL}"}')
    assert said == (
        "Our.Pin: found a value that is not shown here from the environment variable PASSWORD_OF_ALL, allowed: a whole number"
    )


def test_what_reads_its_own_part_later_knows_the_variable_too(read: Read, source: Callable[[str], ModuleType]) -> None:
    settings = source("common.settings")
    found = read('{"Broker": {"Password": "x${UNSET}", "Port": "${WEEKS}"}}').broker
    with pytest.raises(
        settings.SettingsError, match=r"^Our\.Broker\.Password: the environment variable UNSET is not set"
    ):
        settings.read_settings(Broker, "Our.Broker", {"Our.Broker": found})
    read_later = settings.read_settings(Broker, "Our.Broker", {"Our.Broker": {**found, "Password": "x"}})
    assert read_later == Broker("x", 5)


def test_a_file_that_is_not_as_orthanc_has_read_it_says_nothing(
    read: Read, source: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    read('{"Text": "${WORD}"}')
    environment = source("common.environment")
    assert type(environment.with_variables("Our", {"Text": "other"})["Text"]) is str
    assert environment.with_variables("Our", {"Text": "abc"})["Text"].names == ("WORD",)
    for broken in ("{", "[]", '"x"', ""):
        (tmp_path / "orthanc.json").write_text(broken)
        assert type(environment.with_variables("Our", {"Text": "abc"})["Text"]) is str
    (tmp_path / "orthanc.json").unlink()
    assert type(environment.with_variables("Our", {"Text": "abc"})["Text"]) is str


def test_all_files_of_a_folder_are_looked_at(
    source: Callable[[str], ModuleType], orthanc_standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORD", "abc")
    orthanc_standin.returns["GetConfigurationPath"] = str(tmp_path)
    (tmp_path / "a.json").write_text('{"Other": 1}')
    (tmp_path / "b.JSON").write_text('\ufeff{"Our": {"Text": "${WORD}" /* , */ , }, }')
    (tmp_path / "c.txt").write_text('{"Our": {"Text": "x"}}')
    found = source("common.environment").with_variables("Our", {"Text": "abc"})
    assert found["Text"].names == ("WORD",)
