# SPDX-License-Identifier: AGPL-3.0-or-later
"""dashboard/notify.py: what needs a person is said once, and once when it is over, whatever is restarted in between."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from common.times import utc
from tests.fakes import Clock

Source = Callable[[str], ModuleType]
PLACE = {"Script": "auto_forward_modality", "Name": "PACS", "State": "up", "Totals": {"waiting": 0}, "LastMinute": 1}
AWAY = "destination:auto_forward_modality:PACS"
DEAD = "dead:auto_forward_modality:PACS"


def alert(identifier: str, since: float, *, level: str = "act", count: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "ID": identifier,
        "Level": level,
        "Text": identifier,
        "Why": "",
        "Count": count,
        "Since": utc(since),
        **more,
    }


def summary(now: float, *alerts: dict[str, Any], place: dict[str, Any] | None = None, **script: Any) -> dict[str, Any]:
    entry = {"Name": "auto_forward_modality", "State": "running", "Totals": {"waiting": 0}, **script}
    return {"At": utc(now), "Alerts": [*alerts], "Scripts": [entry], "Destinations": [{**PLACE, **(place or {})}]}


class People:
    """What two channels say, as a script of the dashboard's state would have it."""

    def __init__(self, source: Source, clock: Clock, folder: Path) -> None:
        self.notify, self._ledger, self.clock, self._folder = (
            source("dashboard.notify"),
            source("common.ledger"),
            clock,
            folder,
        )
        self.ledger: Any = None
        self.restart()

    def restart(self, *channels: str) -> None:
        """As after a kill: nothing but the state is left."""
        if self.ledger:
            self.ledger.close()
        self.ledger = self._ledger.Ledger(self._folder / "dashboard.sqlite", self.notify.NOTICE_TABLES)
        self.notices = self.notify.Notices(self.ledger, channels or ("mail", "webhook"))

    def look(self, *alerts: dict[str, Any], minutes: float = 15, **more: Any) -> None:
        seen, known = summary(self.clock.now, *alerts, **more), self.notices.known()
        self.notices.look(self.notify.needs_of(seen, minutes, known), self.notify.unknown_now(seen, known))

    def hear(self, channel: str = "mail") -> list[str]:
        """Send what there is; the lines."""
        message = self.notices.message(channel)
        if message is None:
            return []
        self.notices.sent(channel, message)
        return [line.partition(" (")[0] for line in message.lines]

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)


@pytest.fixture
def people(source: Source, clock: Clock, tmp_path: Path) -> People:
    return People(source, clock, tmp_path)


def test_what_is_dead_is_said_once_to_each_and_once_when_it_is_over(people: People) -> None:
    dead = alert(DEAD, people.clock.now)
    people.look(dead)
    assert people.hear() == [DEAD]
    for _ in range(3):
        people.advance(30)
        people.look(dead)
        assert people.hear() == []
    people.look()
    people.advance(59)
    people.look()
    assert people.hear() == []
    people.advance(2)
    people.look()
    assert people.hear() == [f"Over: {DEAD}"]
    assert people.hear() == []
    assert people.hear("webhook") == [f"Over: {DEAD}"]  # it was away all the time: one line with begin and end
    people.look()
    assert (people.hear(), people.hear("webhook"), people.notices.known()) == ([], [], set())


def test_what_comes_back_within_a_minute_was_never_over(people: People) -> None:
    dead = alert(DEAD, people.clock.now)
    people.look(dead)
    people.hear()
    for _ in range(10):
        people.advance(50)
        people.look()
        people.advance(5)
        people.look(dead)
        assert people.hear() == []


def test_what_comes_back_before_it_was_said_to_be_over_is_said_neither_way(people: People) -> None:
    dead = alert(DEAD, people.clock.now)
    people.look(dead)
    people.hear()
    people.look()
    people.advance(61)
    people.look()
    people.look(dead)
    assert people.hear() == []


@pytest.mark.parametrize("at", ["written down", "sent", "over", "over and sent"])
def test_a_kill_in_between_loses_nothing(people: People, at: str) -> None:
    dead, heard = alert(DEAD, people.clock.now), []
    people.look(dead)
    if at == "written down":
        people.restart()
    heard += people.hear()
    if at == "sent":
        people.restart()
    people.look(dead)
    heard += people.hear()
    people.look()
    people.advance(61)
    people.look()
    if at == "over":
        people.restart()
    heard += people.hear()
    if at == "over and sent":
        people.restart()
    people.look()
    heard += people.hear()
    assert heard == [DEAD, f"Over: {DEAD}"]


def test_a_message_that_was_sent_and_not_noted_is_the_same_again(people: People) -> None:
    people.look(alert(DEAD, people.clock.now))
    first = people.notices.message("mail")
    people.restart()
    again = people.notices.message("mail")
    assert (first.identifier, first.lines) == (again.identifier, again.lines)


def test_what_changes_while_a_message_is_sent_is_said_afterwards(people: People) -> None:
    people.look(alert(DEAD, people.clock.now))
    message = people.notices.message("mail")
    people.look()
    people.advance(61)
    people.look()
    people.notices.sent("mail", message)
    assert people.hear() == [f"Over: {DEAD}"]


def test_more_of_the_same_while_a_message_is_sent_is_said_afterwards(people: People) -> None:
    people.look(alert(DEAD, people.clock.now))
    message = people.notices.message("mail")
    people.look(alert(DEAD, people.clock.now, count=2))
    people.notices.sent("mail", message)
    assert people.hear() == [DEAD]


def test_a_destination_has_to_be_away_for_some_minutes_and_is_on_as_long_as_it_is_away(people: People) -> None:
    begun = people.clock.now
    for minutes in (0, 5, 14):
        people.clock.advance(begun + 60 * minutes - people.clock.now)
        people.look(alert(AWAY, begun, level="watch"))
        assert people.hear() == []
    people.advance(61)
    people.look(alert(AWAY, begun, level="watch"))
    assert people.hear() == [AWAY]
    people.restart()  # its minutes begin again: Orthanc was started
    for _ in range(5):
        people.advance(30)
        people.look(alert(AWAY, people.clock.now, level="watch"))
        assert people.hear() == []


def test_a_destination_is_not_over_as_long_as_nobody_knows(people: People) -> None:
    begun = people.clock.now - 1000
    people.look(alert(AWAY, begun, level="watch"))
    assert people.hear() == [AWAY]

    def passes(**more: Any) -> list[str]:
        for _ in range(3):
            people.advance(50)
            people.look(**more)
        return people.hear()

    waits = {"Totals": {"waiting": 3}, "LastMinute": 0}
    assert passes(State="waiting") == []  # another process has its state
    assert passes(Totals={}) == []  # it gave no answer
    assert passes(place={"Script": "auto_forward_peer"}) == []
    assert passes(place=waits) == []  # it was not tried since the start
    assert passes(place={**waits, "LastMinute": 1}) == [f"Over: {AWAY}"]


@pytest.mark.parametrize(
    "more", [{"place": {"State": "paused", "Totals": {"waiting": 3}, "LastMinute": 0}}, {"Name": "other"}]
)
def test_who_pauses_a_destination_or_takes_the_script_out_knows_of_it(people: People, more: dict[str, Any]) -> None:
    people.look(alert(AWAY, people.clock.now - 1000, level="watch"))
    people.hear()
    for _ in range(2):
        people.look(**more)
        people.advance(61)
    people.look(**more)
    assert people.hear() == [f"Over: {AWAY}"]


def test_more_of_the_same_is_said_again_at_most_once_an_hour(people: People) -> None:
    def look(count: int) -> list[str]:
        people.advance(600)
        people.look(alert(DEAD, people.clock.now, count=count))
        return people.hear()

    assert [look(count) for count in (1, 2, 3, 4, 4, 4)] == [[DEAD], [], [], [], [], []]
    assert look(5) == [DEAD]
    people.advance(4000)
    assert look(2) == []  # some were retried
    assert look(3) == [DEAD]


def test_trouble_of_a_script_has_to_last_and_that_of_the_dashboard_itself_is_nobodys(people: People) -> None:
    begun = people.clock.now
    people.look(alert("script:audit_log", begun), alert("script:dashboard", begun - 1000))
    assert people.hear() == []
    people.advance(61)
    people.look(alert("script:audit_log", begun))
    assert people.hear() == ["script:audit_log"]


def test_what_heals_by_itself_is_nobodys(people: People) -> None:
    people.look(
        alert("held:anonymize_series", people.clock.now - 9999, level="watch"), alert("paused:a:b", 0, level="watch")
    )
    assert people.hear() == []


def test_a_channel_that_is_new_gets_what_is_on_and_one_that_is_gone_is_forgotten(people: People) -> None:
    people.restart("mail")
    dead = alert(DEAD, people.clock.now)
    people.look(dead)
    people.hear()
    people.restart("webhook")
    people.look(dead)
    assert people.hear("webhook") == [DEAD]
    assert people.ledger.rows("SELECT DISTINCT channel FROM notices") == [{"channel": "webhook"}]


def test_texts_from_outside_are_one_line_of_a_message(people: People) -> None:
    people.look(alert(DEAD, people.clock.now, Why="refused\r\nBcc: all@hospital.example\x00\u202e" + "x" * 1000))
    message = people.notices.message("mail")
    assert len(message.lines) == 1
    assert message.lines[0].isprintable()
    assert len(message.lines[0]) < 500
    assert "\n" not in message.subject
    assert message.subject == "1 needs a person"


def test_a_message_has_a_bound_and_the_rest_goes_next(people: People) -> None:
    people.look(*(alert(f"dead:s:{number:03}", people.clock.now) for number in range(150)))
    assert [len(people.hear()) for _ in range(3)] == [100, 50, 0]
