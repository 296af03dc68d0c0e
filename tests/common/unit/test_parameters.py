# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/parameters.py: what a request gives is what its handler takes, or an error that names what is allowed."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from common import parameters
from common.parameters import ParameterError, read_parameters

UTC = datetime.UTC


def taken(kind: parameters.Text, value: Any, *, from_query: bool = False) -> Any:
    """Return what a handler gets."""
    return read_parameters({"x": kind}, {"x": value}, from_query=from_query)["x"]


def refused(kind: parameters.Text, value: Any, *, from_query: bool = False) -> str:
    """Return what is said to be allowed."""
    with pytest.raises(ParameterError, match=r"^x is ") as error:
        taken(kind, value, from_query=from_query)
    return str(error.value).rpartition("allowed: ")[2]


def test_a_text_is_not_empty_as_long_as_allowed_and_wholly_of_its_pattern() -> None:
    kind = parameters.Text("digits", "[0-9]+", 3)
    assert taken(kind, "123") == "123"
    assert taken(kind, "123", from_query=True) == "123"
    for value in ("", "1234", "12a", "a12", "12\n", 123, None, ["1"]):
        assert refused(kind, value) == "digits"
    assert taken(parameters.Text(), "a\nb" + "x" * 997) == "a\nb" + "x" * 997
    assert refused(parameters.Text(), "x" * 1001) == "a text"


def test_one_of_some_texts_is_one_of_them() -> None:
    kind = parameters.OneOf(choices=("a", "b"))
    assert taken(kind, "b") == "b"
    for value in ("", "c", "A", ["a"], None):
        assert refused(kind, value) == "a, b"


@pytest.mark.parametrize("value", [4, 11, -5, True, 5.0, "5", None, [5]])
def test_a_number_is_whole_and_within_its_bounds(value: Any) -> None:
    kind = parameters.WholeNumber(least=5, most=10)
    assert [taken(kind, number) for number in (5, 10)] == [5, 10]
    assert refused(kind, value) == "a whole number from 5 to 10"


def test_a_number_in_a_query_is_written_in_at_most_19_digits() -> None:
    kind = parameters.WholeNumber()
    assert taken(kind, "007", from_query=True) == 7
    assert taken(kind, f"{2**62}", from_query=True) == 2**62
    assert taken(kind, "0" * 19, from_query=True) == 0
    for text in ("", "-1", "1.0", "1 ", "1\n", "\u0667", "x", f"{2**62 + 1}", "0" * 20, "9" * 5000):
        assert refused(kind, text, from_query=True) == f"a whole number from 0 to {2**62}"


def test_a_flag_is_true_or_false_and_its_name_alone_only_where_that_is_allowed() -> None:
    kind, bare = parameters.Flag(), parameters.Flag(bare=True)
    assert [taken(kind, value) for value in (True, False)] == [True, False]
    assert [taken(kind, text, from_query=True) for text in ("true", "false")] == [True, False]
    assert taken(bare, "", from_query=True) is True
    assert taken(bare, "false", from_query=True) is False
    for value in ("true", 1, 0, None, ""):
        assert refused(bare, value) == "true or false"
    for text in ("True", "1", "yes", ""):
        assert refused(kind, text, from_query=True) == "true or false"


def test_an_empty_list_means_nothing_never_everything() -> None:
    kind = parameters.Texts()
    assert taken(kind, ["a", "b"]) == ["a", "b"]
    assert taken(kind, "a,b", from_query=True) == ["a", "b"]
    for value in ([], [""], ["a", ""], ["a", 1], "a", {"a": "b"}, None):
        assert refused(kind, value) == "a list of at least one text"
    for text in ("", ",", "a,", "a,,b"):
        assert refused(kind, text, from_query=True) == "a list of at least one text"


def test_texts_by_name_are_an_object_that_is_not_empty() -> None:
    kind = parameters.TextsByName()
    assert taken(kind, {"a": "b", "c": ""}) == {"a": "b", "c": ""}
    assert taken(kind, '{"a": "b"}', from_query=True) == {"a": "b"}
    for value in ({}, [], ["a"], {"a": 1}, {"a": "b", "c": None}, "a"):
        assert refused(kind, value) == "an object of at least one name and text"
    for text in ("", "{}", "{", "[1]", '{"a": 1}'):
        assert refused(kind, text, from_query=True) == "an object of at least one name and text"


def test_a_day_is_one_of_the_calendar() -> None:
    assert taken(parameters.Day(), "20240229") == datetime.date(2024, 2, 29)
    for value in ("20230229", "2024-02-29", "", 20240229, None):
        assert refused(parameters.Day(), value) == "a day of the calendar as YYYYMMDD"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("20260131", datetime.datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31", datetime.datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T13:00:00Z", datetime.datetime(2026, 1, 31, 13, tzinfo=UTC)),
        ("2026-01-31T13:00:00+01:00", datetime.datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T13:00:00 01:00", datetime.datetime(2026, 1, 31, 12, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_day_or_a_time_with_its_zone(text: str, moment: datetime.datetime) -> None:
    assert taken(parameters.Moment(), text) == moment
    assert taken(parameters.Moment(), text, from_query=True) == moment


@pytest.mark.parametrize(
    "value",
    ["2026-01-31T13:00:00", "2026-02-30", "2026-01-31T13", "13:00", "", "now", 20260131, None, ["2026-01-31"],
     "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"],
)  # fmt: skip
def test_a_time_without_a_zone_and_what_is_no_time_are_refused(value: Any) -> None:
    assert refused(parameters.Moment(), value) == (
        "a day (20260131, 2026-01-31) or a time with its zone (2026-01-31T13:00:00Z)"
    )


def test_an_identifier_is_wholly_one_of_orthanc() -> None:
    good = "0123abcd-0123abcd-0123abcd-0123abcd-0123abcd"
    assert taken(parameters.IDENTIFIER, good) == good
    for value in (good[:-1], f"{good}0", f"{good}/../x", good.upper(), good[:-9]):
        assert refused(parameters.IDENTIFIER, value) == "an identifier of Orthanc"


def test_a_page_has_from_one_to_a_thousand_rows() -> None:
    page = parameters.PAGE_PARAMETERS
    for limit in ("1", "1000"):
        assert read_parameters(page, {"limit": limit, "since": "0"}, from_query=True)["limit"] == int(limit)
    for limit in ("0", "1001"):
        with pytest.raises(ParameterError, match="allowed: a whole number from 1 to 1000"):
            read_parameters(page, {"limit": limit}, from_query=True)


def test_an_unknown_parameter_is_refused_with_what_was_meant_or_is_allowed() -> None:
    known = {"dry-run": parameters.Flag(), "limit": parameters.WholeNumber()}
    for given, said in (
        ("dryrun", 'Unknown parameter "dryrun"; did you mean dry-run? allowed: dry-run, limit'),
        ("zzz", 'Unknown parameter "zzz"; allowed: dry-run, limit'),
        ("z" * 90, f'Unknown parameter "{"z" * 56}...; allowed: dry-run, limit'),
    ):
        with pytest.raises(ParameterError) as error:
            read_parameters(known, {"limit": "1", given: "true"}, from_query=True)
        assert str(error.value) == said
    with pytest.raises(ParameterError, match=r"allowed: none$"):
        read_parameters({}, {"x": "1"}, from_query=True)


def test_the_two_styles_of_a_name_are_each_the_other_s() -> None:
    for query, body in (("dry-run", "DryRun"), ("limit", "Limit"), ("keep-received-days", "KeepReceivedDays")):
        assert parameters.in_other_style(query) == body
        assert parameters.in_other_style(body) == query


def test_a_body_takes_the_name_of_a_query_as_it_is_declared_and_in_its_own_style() -> None:
    known = {"dry-run": parameters.Flag()}
    for name in ("dry-run", "DryRun"):
        assert read_parameters(known, {name: True}, from_query=False) == {"dry-run": True}
    with pytest.raises(ParameterError, match=r"^dry-run is given twice, also as DryRun$"):
        read_parameters(known, {"dry-run": False, "DryRun": True}, from_query=False)
    with pytest.raises(ParameterError, match=r"^Unknown parameter"):
        read_parameters(known, {"DryRun": "true"}, from_query=True)


def test_a_value_is_shown_in_at_most_60_characters_of_one_line() -> None:
    assert parameters.shown_value("a\nb") == '"a\\nb"'
    assert parameters.shown_value("x" * 58) == json.dumps("x" * 58)
    assert parameters.shown_value("x" * 59) == f'"{"x" * 56}...'


def test_what_a_handler_says_it_takes_is_known_and_without_a_word_it_takes_nothing_and_does_not_act() -> None:
    def silent() -> None: ...
    def reading() -> None: ...
    def acting() -> None: ...

    parameters.takes(parameters.PAGE_PARAMETERS)(reading)
    parameters.takes({}, get_acts=True)(acting)
    assert parameters.parameters_of(silent) == {}
    assert parameters.parameters_of(reading) == parameters.PAGE_PARAMETERS
    assert [parameters.acts_on_get(each) for each in (silent, reading, acting)] == [False, False, True]


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("12", 12), ("9" * 18, int("9" * 18)), ("9" * 19, -1), ("", -1), ("-1", -1), ("1x", -1)]
)  # fmt: skip
def test_what_can_be_no_number_of_a_row_is_one_that_no_row_has(text: str, number: int) -> None:
    assert parameters.row_number(text) == number
