# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/settings.py: a section of the configuration becomes settings, or one clear line."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.settings import SettingsError, is_nearly, read_settings


@dataclasses.dataclass(frozen=True)
class Inner:
    first: float = field(default=30, metadata={"minimum": 1})


@dataclasses.dataclass(frozen=True)
class Settings:
    names: tuple[str, ...] = ()
    mode: str = field(default="a", metadata={"choices": ("a", "b")})
    limit: int | None = field(default=None, metadata={"minimum": 1, "maximum": 9})
    on: bool = True
    inner: Inner = Inner()
    url: str = field(default="", metadata={"key": "URL", "secret": True})
    even: int = field(default=2, metadata={"check": lambda value: "an even number" if value % 2 else None})
    free: dict[str, Any] = field(default_factory=dict)


def read(section: Any) -> Settings:
    return read_settings(Settings, "Our", {"Our": section})


def error_of(section: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        read(section)
    return str(caught.value)


def test_without_the_section_all_is_default() -> None:
    assert read_settings(Settings, "Our", {"Other": 1}) == Settings()
    assert read_settings(Settings, "Our", {"Our": None}) == Settings()


def test_a_key_can_not_make_up_a_line_of_the_log() -> None:
    assert error_of({"a\nW1121 forged": 1}).startswith("Our.a\\nW1121 forged is not a known key")
    assert len(error_of({"x" * 1000: 1})) < 200


def test_every_key_is_read_by_its_name_in_camel_case() -> None:
    section = {
        "Names": ["x"],
        "Mode": "b",
        "Limit": 9,
        "On": False,
        "Inner": {"First": 2},
        "URL": "u",
        "Even": 4,
        "Free": {"k": 1},
    }
    assert read(section) == Settings(("x",), "b", 9, False, Inner(2.0), "u", 4, {"k": 1})


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ([], "Our: found [], allowed: an object of keys and values"),
        ({"Names": "x"}, 'Our.Names: found "x", allowed: a list'),
        ({"Names": ["x", 1]}, "Our.Names[1]: found 1, allowed: a text"),
        ({"Mode": "c"}, 'Our.Mode: found "c", allowed: one of "a", "b"'),
        ({"Limit": 0}, "Our.Limit: found 0, allowed: a whole number, at least 1, at most 9"),
        ({"Limit": 10}, "Our.Limit: found 10, allowed: a whole number, at least 1, at most 9"),
        ({"Limit": 1.5}, "Our.Limit: found 1.5, allowed: a whole number, at least 1, at most 9"),
        ({"Limit": True}, "Our.Limit: found true, allowed: a whole number, at least 1, at most 9"),
        ({"Limit": "3"}, 'Our.Limit: found "3", allowed: a whole number, at least 1, at most 9'),
        ({"On": 1}, "Our.On: found 1, allowed: true or false"),
        ({"On": None}, "Our.On: found null, allowed: true or false"),
        ({"Inner": 3}, "Our.Inner: found 3, allowed: an object of keys and values"),
        ({"Inner": {"First": "soon"}}, 'Our.Inner.First: found "soon", allowed: a number, at least 1'),
        ({"Even": 3}, "Our.Even: found 3, allowed: an even number"),
        ({"Free": []}, "Our.Free: found [], allowed: an object of keys and values"),
    ],
)
def test_a_wrong_value_is_told_with_section_key_what_was_found_and_what_is_allowed(section: Any, line: str) -> None:
    assert error_of(section) == line


def test_a_secret_is_never_shown() -> None:
    assert (
        error_of({"URL": ["amqp://user:opensesame@host"]})
        == "Our.URL: found a value that is not shown here, allowed: a text"
    )
    # Nor where it should not stand.
    for section in (
        "amqp://user:opensesame@host",
        {"Mode": "amqp://user:opensesame@host"},
        {"Inner": ["http://u:opensesame@h"]},
    ):
        assert "found a value that is not shown here, allowed" in error_of(section)


def test_an_empty_text_that_is_not_allowed_may_be_an_unset_variable() -> None:
    assert error_of({"Mode": ""}).startswith("Our.Mode is empty (is its environment variable set?), allowed: ")


def test_a_long_value_is_cut() -> None:
    assert len(error_of({"Mode": "x" * 1000})) < 120


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"Nams": []}, "Our.Nams is not a known key (did you mean Names?)"),
        ({"NAMES": []}, "Our.NAMES is not a known key (did you mean Names?)"),
        ({"Inner": {"Frist": 1}}, "Our.Inner.Frist is not a known key (did you mean First?)"),
        ({"Zzz": 0}, "Our.Zzz is not a known key (allowed: Names, Mode, Limit"),
    ],
)
def test_an_unknown_key_is_an_error_with_the_nearest_known_one(section: dict[str, Any], line: str) -> None:
    assert error_of(section).startswith(line)


def test_all_unknown_keys_of_an_object_are_named_at_once() -> None:
    line = error_of({"Nams": [], "Mod": "a"})
    assert line == "Our.Nams is not a known key (did you mean Names?); Our.Mod is not a known key (did you mean Mode?)"


@pytest.mark.parametrize("name", ["our", "OUR", "Ours", "O-u-r", "Ou"])
@pytest.mark.parametrize("beside", [{}, {"Our": {}}])
def test_a_section_whose_name_is_nearly_ours_is_an_error_also_beside_ours(name: str, beside: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(Settings, "Our", {**beside, name: {"Mode": "b"}})
    assert str(caught.value) == f"{name} is not a known section (did you mean Our?)"


@pytest.mark.parametrize(
    ("text", "known", "near"),
    [
        ("autoforwardmodality", "AutoForwardModality", True),
        ("auto_forward_modality", "AutoForwardModality", True),
        ("AutoForwardModalty", "AutoForwardModality", True),
        ("AutoFowrardModality", "AutoForwardModality", True),
        ("PurgeOldStudy", "PurgeOldStudies", True),
        ("AuditLogs", "AuditLog", True),
        ("AutoForwardPeer", "AutoForwardModality", False),
        ("PurgeOldSeriesOfMine", "PurgeOldStudies", False),
        ("DicomModalities", "DicomEvents", False),
        ("", "AuditLog", False),
    ],
)
def test_a_name_is_nearly_another_when_case_or_one_or_two_letters_differ(text: str, known: str, near: bool) -> None:
    assert is_nearly(text, known) == near


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["Names", "Mode", "Limit", "On", "Inner", "URL", "Even", "Free", "Else"]), JSON))
def test_whatever_json_a_section_holds_it_is_read_or_refused_with_its_key(section: dict[str, Any]) -> None:
    try:
        settings = read(section)
    except SettingsError as error:
        assert str(error).startswith("Our.")  # noqa: PT017 - either outcome is right
    else:
        assert settings.mode in ("a", "b")
        assert all(isinstance(name, str) for name in settings.names)
        assert settings.inner.first >= 1
