# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/pipeline.py: edit that, never this file.
"""The parts between Orthanc's callbacks and the brokers, put together."""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ._common.database import Database
from ._common.loopback import Loopback
from ._common.postgres_ledger import PostgresLedger
from ._common.state import state_folder
from ._common.worker import first_line

from .brokers import maker
from .images import Tags
from .intake import Intake
from .journal import Journal
from .maintainer import OutboxMaintainer
from .named import Named, secrets_of
from .outbox import SHARED_TABLES, VERSION, Outbox
from .publisher import Publisher
from .settings import Settings

STOP_WITHIN_SECONDS = 0.4  # until threads are left behind


class Pipeline:
    """One outbox, the intake before it, its maintainer, and a publisher for each broker.

    `say` writes a line ("error" or "warning") to the log. `database` : where the outbox is, if several servers share it.
    `before_journal` is called when this server has the right to the outbox, before the journal is opened.

    Raises
    ------
    OSError, sqlite3.Error : the outbox or the journal can't be opened; nothing is left open then.
    """

    def __init__(
        self,
        settings: Settings,
        brokers: Sequence[Named],
        tags: Mapping[str, Tags],
        configuration: Mapping[str, Any],
        loopback: Loopback,
        say: Callable[[str, str], None],
        database: Database | None = None,
        before_journal: Callable[[], None] = lambda: None,
    ) -> None:
        bounds = settings.outbox
        path = state_folder(settings.state_path, configuration) / "dicom_events.sqlite"
        self.outbox = Outbox(
            PostgresLedger(database, "dicom_events", SHARED_TABLES, version=VERSION) if database else path,
            server=database.server if database else "",
            durability=settings.durability,
            most=bounds.max_megabytes * 1_000_000,
            oldest=bounds.max_age_days * 86400,
            refuse=bounds.when_full == "refuse",
            keep_orphaned=bounds.keep_orphaned_days,
        )

        def complain(text: str) -> None:
            say("error", text)

        try:
            before_journal()
            said = self.outbox.begin(brokers)
            full = settings.durability == "full"
            self._journal = Journal(path.with_suffix(".journal"), self.outbox.place, full=full)
            for line in [*_said_of_new(self.outbox), *said, *_said_of_orphans(self.outbox)]:
                say("warning", f"dicom_events: {line}")
            stable_age, reconcile = float(configuration.get("StableAge", 60)), settings.reconcile
            self.intake = Intake(self.outbox, self._journal, settings.events, tags, stable_age, reconcile, complain)
            self.intake.bring_up_to_date()  # what the process before this one has left
            source = settings.source or f"/orthanc/{urllib.parse.quote(str(configuration.get('Name', 'MyOrthanc')))}"
            self.publishers = [self._publisher(named, source, settings.format, path.parent, say) for named in brokers]
            names = [named.name for named in brokers]
            self.maintainer = OutboxMaintainer(self.intake.applier, loopback, reconcile, complain, names)
        except BaseException:
            self.outbox.close()  # the next try opens it
            raise

    def _publisher(
        self, named: Named, source: str, form: str, folder: Path, say: Callable[[str, str], None]
    ) -> Publisher:
        return Publisher(named, self.outbox, maker(named, source, form, folder, say), say, secrets_of(named))

    def start(self) -> None:
        """Start the threads."""
        self.intake.start()
        self.maintainer.start()
        for publisher in self.publishers:
            publisher.start()

    def stop(self) -> None:
        """End the threads; what a hanging broker holds is left behind: the rows are on disk."""
        until = time.monotonic() + STOP_WITHIN_SECONDS
        working: list[Intake | Publisher | OutboxMaintainer] = [self.intake, *self.publishers, self.maintainer]
        for each in working:
            each.stop()
        for each in working:
            each.join(until)

    def close(self) -> None:
        """Close the files."""
        self._journal.close()
        self.outbox.close()

    def retry_letters(self, broker: str | None = None, letter: int | None = None) -> int:
        """Let all dead letters, those of one broker, or one of them be tried again now; return how many."""
        number = self.outbox.letters.retry_dead(broker, letter)
        for publisher in self.publishers:
            publisher.retry_letters()
        return number

    def broker_names(self) -> list[str]:
        """Return the names of all brokers with a place: configured ones, then orphans."""
        return [*(each.name for each in self.publishers), *self.outbox.places.orphans.names()]

    def status(self) -> dict[str, Any]:
        """Return what the status says."""
        self.intake.bring_up_to_date()  # what waits is counted in the outbox
        orphans = self.outbox.places.orphans.names()
        brokers = {publisher.name: publisher.status() for publisher in self.publishers}
        brokers |= {name: self.outbox.orphan_status(name, *kept) for name, kept in orphans.items()}
        counted = {"waiting": "Backlog", "published": "Published", "dead": "DeadLetters"}
        return {
            "Totals": {state: sum(each.get(key, 0) for each in brokers.values()) for state, key in counted.items()},
            "Outbox": self.outbox.retention.status(),
            "Brokers": brokers,
        }

    def measure(self) -> dict[str, float]:
        """Return the metrics: sums over all brokers, and what waits longest."""
        brokers = [publisher.status() for publisher in self.publishers]
        names = self.outbox.places.orphans.names()
        each = [*brokers, *(self.outbox.totals(name) for name in names)]
        keys = ("Backlog", "DeadLetters", "Returned", "Unroutable", "Published")
        away = [broker for broker in brokers if broker["State"] != "connected"]
        return {
            **{in_snake_case(key): sum(one.get(key, 0) for one in each) for key in keys},
            "oldest_seconds": max((one.get("OldestSeconds") or 0.0 for one in each), default=0.0),
            "brokers_away": len(away),
            "brokers_orphaned": len(names),
        }

    @property
    def problem(self) -> str | None:
        """What goes wrong just now: what can't be written, or a broker that is off until the configuration is corrected."""
        off = [f'the broker "{each.name}" is off: {each.complaint}' for each in self.publishers if each.complaint]
        now = self.intake.problem or self.maintainer.problem or "; ".join(off)
        return first_line(now) or None


def in_snake_case(key: str) -> str:
    """Return how a metric is called: `DeadLetters` is `dead_letters`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key).removeprefix("_")


def _said_of_new(outbox: Outbox) -> list[str]:
    if not outbox.ledger.is_new:
        return []
    moved = outbox.ledger.quarantined_to
    why = f"was corrupt and is kept as {moved}" if moved else "is new"
    return [
        f"the outbox {outbox.where} {why}; what happens from now on is published, nothing that the archive "
        "holds already (POST /dicom-events/replay does that)"
    ]


def _said_of_orphans(outbox: Outbox) -> list[str]:
    """Return one line of the log for all of them."""
    orphans = outbox.places.orphans.names()
    if not orphans:
        return []
    shown = ", ".join(f"{name} ({outbox.backlog(name)[0]} events)" for name in orphans)
    days = min((left for _, left in orphans.values() if left is not None), default=None)
    return [
        f"no broker is configured under the name of what waits for: {shown}. It is kept until there is one, or "
        f"DELETE /dicom-events/brokers/NAME{'' if days is None else f', or for {days:g} days more'}"
    ]
