# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/places.py: edit that, never this file.
"""Where each broker is in the outbox: its cursor and its letters are bound to its name.

A broker that the configuration has no more keeps its place as an orphan, with all that happens from then on, until a broker
has that name again.
"""

from __future__ import annotations

from collections.abc import Sequence

from ._common.ledger import Ledger
from ._common.orphans import ORPHAN_TABLES, Orphans

from .broker_settings import TYPES
from .named import Named

# `named` is 0 for the file that is used where nobody configured a broker. A place without a row here was made by the
# first version, which named `Broker` by its type.
PLACE_TABLES = f"""
CREATE TABLE IF NOT EXISTS broker(
    name TEXT PRIMARY KEY, cursor INTEGER NOT NULL, published INTEGER NOT NULL, dead INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS place(broker TEXT PRIMARY KEY, type TEXT NOT NULL, named INTEGER NOT NULL) WITHOUT ROWID;
{ORPHAN_TABLES}
"""


class Places:
    """The places of all brokers, those of former ones included. `keep_days` : how long, 0 for ever."""

    def __init__(self, ledger: Ledger, keep_days: float) -> None:
        self._ledger = ledger
        self.orphans = Orphans(ledger, keep_days)
        self.dropped = 0
        """How many places were dropped."""

    def begin(self, brokers: Sequence[Named], newest: int) -> list[str]:
        """Take the brokers that there are now; `newest` is the last event. Return what has to be said of it.

        A new one begins with what happens from now on; the very first takes what was written before it was there.
        """
        with self._ledger.transaction() as db:
            brokers = [each for each in brokers if each.bound]
            self._rename_those_of_the_first_version(brokers)
            known = {row["name"] for row in self._ledger.rows("SELECT name FROM broker")}
            types = {row["broker"]: row["type"] for row in self._ledger.rows("SELECT * FROM place")}
            said = []
            for each in brokers:
                kind, former = each.settings.type, types.get(each.name)
                if each.name not in known:
                    db.execute("INSERT INTO broker VALUES(?,?,0,0)", (each.name, newest if known else 0))
                if former and kind and former != kind:
                    said.append(
                        f"broker {each.name} was {former} and is {kind}: what waits for that name goes there now"
                    )
                db.execute(
                    "INSERT INTO place VALUES(?,?,?) ON CONFLICT(broker) DO UPDATE SET type=excluded.type, named=excluded.named",
                    (each.name, kind or former or "", each.named),
                )
            gone = known - {each.name for each in brokers}
            for name in sorted(gone):
                if self._is_nobodys(name, newest):
                    self.drop(name)
                    gone.remove(name)
            db.executemany(
                "INSERT INTO place VALUES(?,?,1) ON CONFLICT DO NOTHING",
                [(name, name if name in TYPES else "") for name in gone],
            )
            self.orphans.begin(gone)
        return said

    def _is_nobodys(self, name: str, newest: int) -> bool:
        """Return whether nobody named it, and it has all."""
        return bool(
            self._ledger.rows(
                "SELECT 1 FROM broker b JOIN place p ON p.broker=b.name AND p.named=0 WHERE b.name=? AND b.cursor>=? "
                "AND NOT EXISTS (SELECT 1 FROM letter l WHERE l.broker=b.name)",
                *(name, newest),
            )
        )

    def _rename_those_of_the_first_version(self, brokers: Sequence[Named]) -> None:
        """Rename places: that version named `Broker` by its type, and put one of `Brokers` off that had this name too."""
        legacy = {
            row["name"]
            for row in self._ledger.rows("SELECT name FROM broker WHERE name NOT IN (SELECT broker FROM place)")
        }
        others = {each.name for each in brokers if not each.former}
        for each in brokers:
            kind, second = each.former, f"{each.former}-2"
            if not kind or each.name in legacy:
                continue
            if kind in legacy and kind in others and second in legacy - others:
                self._rename(kind, each.name)
                self._rename(second, kind)
            elif kind in legacy - others:
                self._rename(kind, each.name)
            elif kind not in TYPES and len(candidates := (legacy - others) & set(TYPES)) == 1:
                self._rename(candidates.pop(), each.name)  # its type is mistyped just now

    def _rename(self, old: str, new: str) -> None:
        with self._ledger.transaction() as db:
            db.execute("UPDATE broker SET name=? WHERE name=?", (new, old))
            db.execute("UPDATE letter SET broker=? WHERE broker=?", (new, old))

    def type_of(self, name: str) -> str:
        return str(self._ledger.rows("SELECT type FROM place WHERE broker=?", name)[0]["type"])

    def drop(self, name: str) -> None:
        """Forget a place and all that waits there: the next `tidy` deletes its events, if no other needs them."""
        with self._ledger.transaction() as db:
            for sql in (
                "DELETE FROM broker WHERE name=?",
                "DELETE FROM place WHERE broker=?",
                "DELETE FROM letter WHERE broker=?",
                "DELETE FROM returned WHERE broker=?",
            ):
                db.execute(sql, (name,))
            self.orphans.forget(name)
            self.dropped += 1

    def drop_expired(self) -> list[str]:
        """Forget what was kept for long enough; return the names."""
        expired = self.orphans.expired()
        for name in expired:
            self.drop(name)
        return expired
