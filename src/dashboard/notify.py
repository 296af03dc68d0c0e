# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which people have to know: what is new, what is over, and what was not sent yet. Nothing here is sent."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from common.ledger import Ledger
from common.routes import one_line
from common.times import parse_time, utc

from .settings import NAME

SETTLED_SECONDS = 60.0  # for which trouble of a script has to last, and for which something has to be away to be over
MORE_AFTER_SECONDS = 3600.0  # after which it is said again where there are more of the same by now
LINES_PER_MESSAGE = 100
LONGEST_LINE = 400  # characters
# One row for each alert that a channel has been told of, or will be. `told`: 1 once its begin was sent, at `told_at`; `number`:
# how many of the same there were then. `ended`: it is over, and is forgotten when that was sent. `changed`: the version.
NOTICE_TABLES = """
CREATE TABLE IF NOT EXISTS notices(
    channel TEXT NOT NULL, alert TEXT NOT NULL, text TEXT NOT NULL, number INTEGER NOT NULL, began REAL NOT NULL, ended REAL,
    told INTEGER NOT NULL, told_at REAL NOT NULL, changed INTEGER NOT NULL, PRIMARY KEY(channel, alert)) WITHOUT ROWID;
"""


class Need(NamedTuple):
    """Something that needs a person: text of one line, how many of the same there are, and since when (seconds since 1970)."""

    text: str
    number: int
    since: float


def needs_of(summary: Mapping[str, Any], after_minutes: float, known: Iterable[str]) -> dict[str, Need]:
    """Return what needs a person now, by alerts' IDs.

    A destination that is away heals by itself, and needs a person after some minutes. One of which people know by now is on
    as long as it is away at all: after a restart its minutes begin again.
    """
    known, now = set(known), _seconds(summary["At"])
    found = {}
    for alert in summary["Alerts"]:
        identifier, since = alert["ID"], _seconds(alert.get("Since") or summary["At"])
        kind = identifier.partition(":")[0]
        if identifier == f"script:{NAME}":
            is_due = False  # that people can't be notified is nothing to notify them of
        elif kind == "destination" and alert["Level"] != "act":
            is_due = identifier in known or now - since >= after_minutes * 60
        elif kind == "script":
            is_due = identifier in known or now - since >= SETTLED_SECONDS
        else:
            is_due = alert["Level"] == "act"
        if is_due:
            why = f": {alert['Why']}" if alert.get("Why") else ""
            found[identifier] = Need(
                printable(f"{alert['Text']}{why}")[:LONGEST_LINE], int(alert.get("Count", 1)), since
            )
    return found


def unknown_now(summary: Mapping[str, Any], alerts: Iterable[str]) -> set[str]:
    """Return those of some alerts of which it is not known whether they are over: their script can't be asked now.

    Of a destination also as long as something waits for it and nothing arrives: after a restart it is not away until it was
    tried.
    """
    scripts = {each["Name"]: each for each in summary["Scripts"]}
    places = {(each["Script"], each["Name"]): each for each in summary["Destinations"]}
    asked = {script for script, _ in places}
    found = set()
    for identifier in alerts:
        kind, _, rest = identifier.partition(":")
        script, _, name = rest.partition(":")
        if kind in ("script", "disk") or script not in scripts:
            continue  # it says of itself how it is, or was taken out
        entry = scripts[script]
        place = places.get((script, name))
        is_forwarder = script.startswith("auto_forward_")
        is_silent = entry.get("State") != "running" or not entry.get("Totals") or (is_forwarder and script not in asked)
        if is_silent or (kind == "destination" and place and place["State"] != "paused" and is_untried(place)):
            found.add(identifier)
    return found


def printable(text: str) -> str:
    """Return a text as one line without what changes how others of it look: directions of writing, for example."""
    return "".join(letter if letter.isprintable() else " " for letter in one_line(text))


def is_untried(place: Mapping[str, Any]) -> bool:
    """Return whether something waits for a destination, and nothing has arrived there lately."""
    return bool(place["Totals"].get("waiting")) and not place.get("LastMinute")


def _seconds(text: str) -> float:
    moment = parse_time(text)
    return moment.timestamp() if moment else time.time()


@dataclasses.dataclass(frozen=True)
class Message:
    """What is sent at a time: what has begun, and what is over."""

    begun: Sequence[Mapping[str, Any]]
    over: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]

    @property
    def subject(self) -> str:
        """One line."""
        parts = []
        if self.begun:
            parts.append(f"{len(self.begun)} {'needs' if len(self.begun) == 1 else 'need'} a person")
        if self.over:
            parts.append(f"{len(self.over)} {'is' if len(self.over) == 1 else 'are'} over")
        return ", ".join(parts)

    @property
    def lines(self) -> list[str]:
        """What each is, for a person."""
        begun = [f"{each['Text']} (since {each['Since']})" for each in self.begun]
        over = [f"Over: {each['Text']} (from {each['Since']} to {each['Until']})" for each in self.over]
        return [*begun, *over]

    @property
    def identifier(self) -> str:
        """The same if it is sent again, since nobody knows whether it arrived."""
        return f"{max(row['changed'] for row in self.rows):x}.{len(self.rows)}"


class Notices:
    """What each channel was told, and what it is to be told: at least once each, over restarts."""

    def __init__(self, ledger: Ledger, channels: Sequence[str]) -> None:
        self._ledger, self._channels = ledger, channels
        self._gone_since: dict[str, float] = {}  # monotonic: alerts that were on, and are not any more
        for row in ledger.rows("SELECT DISTINCT channel FROM notices"):
            if row["channel"] not in channels:
                ledger.run("DELETE FROM notices WHERE channel=?", row["channel"])

    def known(self) -> set[str]:
        """Return the alerts that are on, as far as some channel has them."""
        return {row["alert"] for row in self._ledger.rows("SELECT DISTINCT alert FROM notices WHERE ended IS NULL")}

    def look(self, needs: Mapping[str, Need], unknown: Iterable[str]) -> bool:
        """Take what needs a person now; return whether there is something to send."""
        now, steady, known, unknown = time.time(), time.monotonic(), self.known(), set(unknown)
        gone = known - needs.keys() - unknown
        self._gone_since = {alert: self._gone_since.get(alert, steady) for alert in gone}
        over = [alert for alert, since in self._gone_since.items() if steady - since >= SETTLED_SECONDS]
        with self._ledger.transaction():
            for channel in self._channels:
                rows = {
                    row["alert"]: row for row in self._ledger.rows("SELECT * FROM notices WHERE channel=?", channel)
                }
                for alert, need in needs.items():
                    self._take(channel, alert, need, rows.get(alert), now)
                for alert in over:
                    if alert in rows and rows[alert]["ended"] is None:
                        self._change(rows[alert], "ended=?", now)
        return any(self.has_pending(channel) for channel in self._channels)

    def _take(self, channel: str, alert: str, need: Need, row: Mapping[str, Any] | None, now: float) -> None:
        if row is None:
            sql = "INSERT INTO notices VALUES(?,?,?,?,?,NULL,0,0,?)"
            self._ledger.run(sql, channel, alert, need.text, need.number, need.since, time.time_ns())
        elif row["ended"] is not None:  # nobody has heard yet that it was over
            self._change(row, "ended=NULL")
        elif need.number > row["number"] and (not row["told"] or abs(now - row["told_at"]) >= MORE_AFTER_SECONDS):
            self._change(row, "told=0, text=?, number=?", need.text, need.number)
        elif need.number < row["number"]:  # more of them are news again
            sql = "UPDATE notices SET number=? WHERE channel=? AND alert=?"
            self._ledger.run(sql, need.number, channel, alert)

    def _change(self, row: Mapping[str, Any], columns: str, *values: Any) -> None:
        sql = f"UPDATE notices SET {columns}, changed=? WHERE channel=? AND alert=?"
        self._ledger.run(sql, *values, time.time_ns(), row["channel"], row["alert"])

    def has_pending(self, channel: str) -> bool:
        """Return whether there is something to send."""
        return bool(self._pending(channel, 1))

    def _pending(self, channel: str, limit: int) -> list[dict[str, Any]]:
        sql = "SELECT * FROM notices WHERE channel=? AND (told=0 OR ended IS NOT NULL) ORDER BY began, alert LIMIT ?"
        return self._ledger.rows(sql, channel, limit)

    def message(self, channel: str) -> Message | None:
        """Return what to send next, or None."""
        if not (rows := self._pending(channel, LINES_PER_MESSAGE)):
            return None
        begun = [_shown(row) for row in rows if row["ended"] is None]
        over = [{**_shown(row), "Until": utc(row["ended"])} for row in rows if row["ended"] is not None]
        return Message(begun, over, rows)

    def sent(self, channel: str, message: Message) -> None:
        """Note that a message was sent. What has changed meanwhile is sent as it is now."""
        with self._ledger.transaction():
            for row in message.rows:
                which = (channel, row["alert"], row["changed"])
                if row["ended"] is None:
                    sql = "UPDATE notices SET told=1, told_at=? WHERE channel=? AND alert=? AND changed=?"
                    self._ledger.run(sql, time.time(), *which)
                else:
                    self._ledger.run("DELETE FROM notices WHERE channel=? AND alert=? AND changed=?", *which)
            self._ledger.set_value(f"notified {channel}", int(time.time()))

    def last_sent(self, channel: str) -> float:
        """Return when something was sent last, in seconds since 1970; 0: never."""
        return float(self._ledger.get_value(f"notified {channel}", 0))


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"Alert": row["alert"], "Text": row["text"], "Count": row["number"], "Since": utc(row["began"])}
