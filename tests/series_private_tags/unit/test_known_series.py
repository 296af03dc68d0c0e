# SPDX-License-Identifier: AGPL-3.0-or-later
"""series_private_tags without a server: what its ledger knows of each series, and which are to be looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from testing.standin import StandIn

Open = Callable[..., Any]


@pytest.fixture
def open_known(
    source: Callable[[str], ModuleType], orthanc_standin: StandIn, tmp_path: Path
) -> Iterator[Callable[..., Any]]:
    """Open the ledger for these entries; the one that was open before is closed."""
    orthanc_standin.returns |= {"GetConfigurationPath": str(tmp_path / "orthanc.json"), "SetMetricsValue": None}
    orthanc_standin.configuration = {"SeriesMainPrivateDicomTags": []}
    opened: list[Any] = []
    source("series_private_tags")
    entries, known_series, settings = (
        source(f"series_private_tags.{name}") for name in ("entries", "known_series", "settings")
    )

    def open_one(*texts: str) -> Any:
        while opened:
            opened.pop().ledger.close()
        wanted = entries.Wanted([entries.parse_entry(text, {}) for text in texts or ("0009,1001:ACME",)])
        opened.append(
            known_series.KnownSeries(settings.Settings(), wanted, {"StorageDirectory": str(tmp_path / "state")})
        )
        opened[0].open()
        return opened[0]

    yield open_one
    for each in opened:
        each.ledger.close()


def test_a_new_series_needs_no_look(open_known: Open) -> None:
    known = open_known()
    known.add_new([("a", 5)], 7)
    known.list_all(["a", "b"])
    assert known.next_to_look_at()[0] == "b"
    assert (known.cursor, known.counts()) == (7, (1, 1, 1))


@pytest.mark.parametrize(("seq", "is_again"), [(5, False), (9, True)])
def test_a_series_that_is_new_a_second_time_is_forgotten_and_looked_at(
    open_known: Open, seq: int, is_again: bool
) -> None:
    known = open_known()
    known.add_new([("a", 5)], 5)
    known.save("a", type(known.get("a"))({"text": "1"}, '{"key": "1"}'), was_looked_at=False)
    known.add_new([("a", seq)], seq)
    assert (known.next_to_look_at() is not None) is is_again
    assert known.get("a").shown == ("{}" if is_again else '{"key": "1"}')


def test_the_place_in_the_log_is_never_set_back_by_a_page(open_known: Open) -> None:
    known = open_known()
    known.add_new([], 7)
    known.add_new([], 3)
    assert known.cursor == 7


def test_another_list_of_entries_looks_only_for_those_that_are_new(open_known: Open) -> None:
    known = open_known()
    known.add_new([("a", 1)], 1)
    known.list_all(["a"])
    assert known.is_listed()
    known = open_known("0009,1001:ACME", "0009,1002:ACME")
    assert not known.is_listed()
    known.list_all(["a"])
    series, missing = known.next_to_look_at()
    assert (series, list(missing)) == ("a", ["0009,1002:ACME"])
    known.was_looked_at("a")
    assert known.next_to_look_at() is None


def test_reconstruct_looks_for_all_entries_again(open_known: Open) -> None:
    known = open_known()
    known.add_new([("a", 1)], 1)
    known.reconstruct(["a"])
    assert known.next_to_look_at() == ("a", known._wanted.entries)


def test_what_lists_show_follows_each_write(open_known: Open) -> None:
    known = open_known()
    assert known.all_shown() == {}
    known.save("a", type(known.get("a"))({"text": "1"}, '{"key": "1"}'), was_looked_at=True)
    assert known.all_shown() == {"a": {"key": "1"}}
    assert known.all_shown() is known.all_shown()
    known.forget("a")
    assert known.all_shown() == {}
