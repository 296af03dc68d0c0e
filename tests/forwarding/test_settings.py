# SPDX-License-Identifier: AGPL-3.0-or-later
"""The forwarders with whatever configuration: it is taken, or the key that is wrong is named and the script is idle."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from testing.standin import StandIn

ROOT = Path(__file__).parents[2]
# Every key of the rules and what stands around them, with a value that is allowed.
VALID: dict[str, Any] = {
    "Destinations": ["A"],
    "Rules": [
        {
            "Name": "ct",
            "Level": "Study",
            "Destinations": ["A", "nobody"],
            "Query": {"ModalitiesInStudy": "CT\\MR", "StudyDate": "20240101-"},
            "Origin": {"RemoteAET": ["WARD*"], "CalledAET": ["A"], "RemoteIP": ["10.*"], "Method": ["RestApi"], "User": ["x"]},
            "Matcher": "matcher.py:choose",
            "Priority": 3,
        }
    ],
    "RuleMode": "all",
    "Trigger": "Stored",
    "SkipModified": True,
    "DeleteAfterForward": True,
    "Retry": {"GiveUpHours": 0.5},
    "MaxPerDestination": 2,
    "DestinationOptions": {
        "A": {
            "MaxJobs": 1,
            "Windows": [{"Days": ["Mon", "Sun"], "From": "22:00", "To": "06:00"}],
            "Options": {"Priority": 10},
        }
    },
    "Reconcile": False,
    "Durability": "full",
    "StatePath": None,
    "KeepDoneDays": 0.5,
}  # fmt: skip
OPEN = ("Query", "Options")  # what is inside is no key of ours
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


def paths(section: Any, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if before:
        yield before
    if before[-1:] and before[-1] in OPEN:
        return
    items = section.items() if isinstance(section, dict) else enumerate(section) if isinstance(section, list) else ()
    for key, value in items:
        yield from paths(value, (*before, key))


def as_text(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)


class Forwarder:
    """A forwarder loaded once on a stand-in, to be registered anew with each section."""

    def __init__(self, standin: StandIn, name: str, section: str) -> None:
        self.standin, self.name, self.section = standin, name, section
        self.script: types.ModuleType = standin.load(ROOT / f"{name}.py")

    def errors(self, section: Any, **configuration: Any) -> list[str]:
        """The ERROR lines of a start with this section."""
        self.standin.logs.clear()
        self.standin.registered.clear()
        self.standin.configuration = {self.section: section, **configuration}
        self.script.register()
        return [text for level, text in self.standin.logs if level == "error"]

    def warnings(self) -> list[str]:
        return [text for level, text in self.standin.logs if level == "warning"]

    def check(self, section: Any, key: str) -> None:
        """One line names the key, and the routes answer with it; or the script runs."""
        if errors := self.errors(section):
            assert len(errors) == 1
            assert errors[0].startswith(f"{self.section}{key.partition('[')[0]}"), (errors[0], key)
            assert "allowed" in errors[0] or " is not a known key (did you mean " in errors[0]
            assert "\n" not in errors[0]
            answer = self.standin.http("GET", f"/{self.name.replace('_', '-')}/status")
            assert (answer.status, answer.json()["Message"]) == (503, errors[0])
        else:
            assert self.standin.callback("RegisterOnChangeCallback")


@pytest.fixture(scope="module", params=["auto_forward_modality", "auto_forward_peer"])
def forwarder(request: pytest.FixtureRequest) -> Iterator[Forwarder]:
    standin = StandIn()
    section = "".join(word.capitalize() for word in request.param.split("_"))
    with standin.installed():
        yield Forwarder(standin, request.param, section)


def test_every_key_can_be_given(forwarder: Forwarder) -> None:
    assert forwarder.errors(VALID) == []


@given(data=st.data())
def test_whatever_stands_at_a_key_is_taken_or_told_by_that_key(forwarder: Forwarder, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(list(paths(VALID))), "path")
    section = copy.deepcopy(VALID)
    holder: Any = section
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = data.draw(ANYTHING, "value")
    forwarder.check(section, as_text(path))


@given(section=ANYTHING)
@example(section=[])
@example(section="PACS")
def test_whatever_stands_for_the_section_is_taken_or_told(forwarder: Forwarder, section: Any) -> None:
    if section is not None:
        forwarder.check(section, "")


@given(name=st.text(min_size=1, max_size=12), data=st.data())
def test_an_unknown_key_is_one_error_wherever_it_stands(forwarder: Forwarder, name: str, data: st.DataObject) -> None:
    section = copy.deepcopy(VALID)
    where = data.draw(
        st.sampled_from([(), ("Retry",), ("Rules", 0), ("Rules", 0, "Origin"), ("DestinationOptions", "A")])
    )
    holder: Any = section
    for key in where:
        holder = holder[key]
    known = {*VALID, *VALID["Rules"][0], *VALID["Retry"], *VALID["Rules"][0]["Origin"], "MaxJobs", "Windows"}
    if name in known | {"TcpNoDelay", "First", "Longest", "Options", "Proof"}:
        return
    holder[name] = 1
    [line] = forwarder.errors(section)
    assert f"{as_text(where)}." in line
    assert "is not a known key (" in line


@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        (("Rules", 0, "Query"), {"PatientName": 5}, "a text"),
        (("Rules", 0, "Query"), {"Modality": "CT"}, "ModalitiesInStudy"),
        (("Rules", 0, "Query"), {"ModalitiesInStudy": "C*"}, "CT\\MR"),
        (("Rules", 0, "Level"), "Instance", '"Patient", "Study", "Series"'),
        (("Rules", 0, "Matcher"), "matcher:choose", "module.py:function"),
        (("Rules", 0, "Origin", "Method"), ["HTTP"], "RestApi"),
        (("DestinationOptions", "A", "Windows", 0, "From"), "25:00", "HH:MM"),
        (("DestinationOptions", "A", "Windows", 0, "Days"), ["Monday"], "Mon, Tue"),
        (("DestinationOptions", "A", "Options"), {"Permissive": True}, "dead port"),
        (("DestinationOptions", "A", "Options"), {"Synchronous": True}, "not allowed"),
        (("DestinationOptions",), {"A\nW1121 forged": None}, "an object"),
        (("Rules", 0, "Query"), {"A\nW1121 forged": None}, "a text"),
    ],
)
def test_what_can_not_be_is_told_with_what_can(
    forwarder: Forwarder, path: tuple[Any, ...], value: Any, allowed: str
) -> None:
    section = copy.deepcopy(VALID)
    holder: Any = section
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    [line] = forwarder.errors(section)
    assert line.startswith(f"{forwarder.section}{as_text(path)}")
    assert allowed in line
    assert "\n" not in line
