# SPDX-License-Identifier: AGPL-3.0-or-later
"""The destinations there are, and whether one can be sent to now: paused, outside its hours, away and probed, or well."""

import datetime
import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import orthanc

from common.backoff import Pauses
from common.loopback import LoopbackError
from common.routes import one_line
from common.work import WorkView
from forwarding.context import Context
from forwarding.identity import Identity
from forwarding.rules import is_open
from forwarding.settings import section_of

WIDER_AGAIN_SECONDS = 3600  # after which a node that took one association at a time is sent to by more again
ASK_AGAIN_SECONDS = 10.0  # between two questions for the destinations, where no event says that they have changed
PROBE_LONGEST_SECONDS = 60.0  # between two probes of a destination that does not answer
# Jobs that fail one after the other although probes are answered, until only trials are sent: to bisect a study takes some.
FAILURES_UNTIL_TRIALS = 40


class Destination:
    """One destination's health. After a failure nothing is sent until a probe answers.

    The probe runs in a thread of its own, outside Orthanc's job slots, which a node that never answers would hold. As
    some nodes know no C-ECHO, one job is tried all the same each time `trial_pauses` says, ever more rarely.
    """

    def __init__(
        self,
        name: str,
        probe: Callable[[str], None],
        wake: threading.Event,
        first: float,
        longest: float,
        check: Callable[[str], None] | None = None,
    ) -> None:
        self.name, self.away, self.error = name, False, ""
        self.identity = Identity(name, check, wake)
        self.answered = False  # since the last failure
        self.was_silent = False  # a probe since then had no answer
        self._silent_since: float | None = None  # monotonic; None: it answers, as far as is known
        self._away_since = 0.0  # monotonic
        self.seconds_of_job = math.inf  # how long its last job took; inf: that failed, or there was none yet
        self._takes_nothing = False  # it answers probes, and many jobs in a row have failed
        self._failures = 0  # jobs that have failed since the last one that succeeded, or since it was silent
        self._probe, self._wake = probe, wake
        self._probing: threading.Thread | None = None
        self._probe_pauses, self._next_probe = Pauses(1.0, PROBE_LONGEST_SECONDS), 0.0
        self._trial_pauses, self._next_trial = Pauses(first, longest), 0.0

    def failed(self, error: str) -> None:
        """Hold all jobs back, since one has failed, and ask whether it is there."""
        if not self.away:
            self._probe_pauses.reset()
            self._trial_pauses.reset()
            self._next_probe, self._next_trial = 0.0, time.monotonic() + self._trial_pauses.next()
            self.was_silent, self._silent_since = False, None  # a probe that ends late is of the time before
            self._away_since = time.monotonic()
        self.away, self.error, self.answered = True, error, False
        self.seconds_of_job = math.inf
        self._failures += 1
        self.identity.doubt()

    def succeeded(self) -> None:
        """Hold nothing back: a job to it has succeeded."""
        self.away, self.error, self._failures, self._takes_nothing = False, "", 0, False
        self._silent_since = None

    def probe_answered(self) -> None:
        """Hold nothing back, unless many jobs in a row have failed although it answers probes: then it is tried rarely."""
        self.answered = False
        if self.was_silent:
            self._failures = 0
        self._takes_nothing = self._failures >= FAILURES_UNTIL_TRIALS
        if not self._takes_nothing:
            self.away, self.error = False, ""

    @property
    def is_doubtful(self) -> bool:
        """Return whether the last job has failed, although it answers probes, or it does not answer them."""
        return self.away or self._failures > 0

    def may_send(self) -> bool:
        """Return whether a job may be submitted; where it is away, one as a trial when it is time for it."""
        return not self.away or time.monotonic() >= self._next_trial

    def sent(self) -> None:
        """Note that a job was submitted; if that was the trial, the next one is later."""
        if self.away:
            pause = self._trial_pauses.next()
            # What answers probes and takes nothing is tried each minute: a person may be at work on it.
            self._next_trial = time.monotonic() + (min(pause, PROBE_LONGEST_SECONDS) if self._takes_nothing else pause)

    def look(self) -> None:
        """Start a probe if one is due. The answer wakes the worker."""
        self.identity.look()
        running = self._probing is not None and self._probing.is_alive()
        if self.away and not running and time.monotonic() >= self._next_probe:
            self._probing = threading.Thread(target=self._ask, name=f"probes {self.name}", daemon=True)
            self._probing.start()

    def _ask(self) -> None:
        try:
            self._probe(self.name)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            self.error, self.was_silent = one_line(error), True
            if self._silent_since is None:
                self._silent_since = time.monotonic()
        else:
            self.answered, self._silent_since = True, None
        self._next_probe = time.monotonic() + self._probe_pauses.next()
        self._wake.set()

    def silent_seconds(self) -> float:
        """Return for how long it has not answered, a probe or a job; -1 where it answers, as far as is known."""
        since = self._silent_since
        return -1.0 if since is None or not self.away else time.monotonic() - since

    def away_seconds(self) -> float:
        """Return for how long nothing could be sent there, trials apart; 0 where something can."""
        return time.monotonic() - self._away_since if self.away else 0.0

    def settings_changed(self) -> None:
        """Probe it at once, and try a job: it is another one, or Orthanc knows it again."""
        self._probe_pauses.reset()
        self._next_probe = self._next_trial = 0.0

    def shown(self) -> dict[str, Any]:
        """Return its health, for a person."""
        wrong = self.identity.wrong
        return {"Away": self.away, "Misconfigured": bool(wrong), "Error": wrong or self.error or self.identity.silent}


class Destinations:
    """The destinations that Orthanc knows, from its configuration and its database, and what is known of each.

    Parameters
    ----------
    changed : is set when Orthanc's destinations have changed.
    """

    def __init__(self, context: Context, changed: threading.Event) -> None:
        self._name, self._transport, self._settings = context.name, context.transport, context.settings
        self._rules, self._loopback = context.rules, context.loopback
        self._all_alternates = (context.settings.alternates, *(rule.alternates for rule in context.rules))
        section = section_of(context.name)
        self._missing_section = "" if section in context.configuration else section
        self._ledger, self._wake = context.ledger, context.wake
        self._known: dict[str, Mapping[str, Any]] = {}
        self._last: dict[str, Mapping[str, Any]] = {}  # also of those that Orthanc knows no more
        self._changed, self._asking = changed, threading.Lock()
        self._changed.set()
        self.missing: list[str] = []
        """The destinations that the configuration names and Orthanc does not know."""
        self._next_ask = 0.0  # monotonic
        self.unknown = ""
        """The line of the log about them."""
        self._health: dict[str, Destination] = {}
        self._held: set[str] = set()  # those that no rule names any more, for which something waits since one did

    def known(self) -> dict[str, Mapping[str, Any]]:
        """Return the destinations that Orthanc knows now, with their settings."""
        with self._asking:  # who asks meanwhile waits: that none is known would mean that nothing is to be sent
            polled, before = self._transport.changed is None, self._known
            if self._changed.is_set() or (polled and time.monotonic() >= self._next_ask):
                is_changed = self._changed.is_set()
                self._changed.clear()  # first: what changes during the question is asked again
                before = self._known
                try:
                    self._known = self._loopback.get(f"/{self._transport.route}?expand")
                except LoopbackError as error:
                    if error.status != 404:
                        self._changed.set()
                        raise
                    self._known = {}  # the route is of a plugin that is not loaded
                self._last |= self._known
                self._next_ask = time.monotonic() + ASK_AGAIN_SECONDS
                if self._known == before and not is_changed:
                    return self._known
                for health in self.all_health():
                    health.identity.doubt()
                    if self._known.get(health.name) != before.get(health.name):
                        health.settings_changed()
                self._log_unknown()
            return self._known

    def last_entry(self, name: str) -> Mapping[str, Any] | None:
        """Return the settings of a destination, the last ones if Orthanc does not know it now; None: it never did."""
        self.known()
        return self._last.get(name)

    def must_know(self, name: str) -> None:
        """Raise ValueError if Orthanc does not know a destination now."""
        if name not in (known := self.known()):
            raise ValueError(f"Orthanc does not know {name} now; known are: {', '.join(known) or 'none'}")

    def listed(self) -> list[str]:
        """Return those of a rule without a list: those of the section's list that Orthanc knows; without one, all."""
        known, listed = self.known(), self._settings.destinations
        return list(known) if listed is None else [name for name in listed if name in known]

    def may_get(self) -> set[str]:
        """Return the destinations that rules may send to; a `Matcher` may choose others."""
        return {*self.listed(), *(name for rule in self._rules for name in rule.destinations or ())}

    def wanted(self) -> list[str]:
        """Return the same, with those that Orthanc does not know: what arrives waits for them."""
        listed = self._settings.destinations
        return list(self.known()) if listed is None else list(listed)

    def is_any_wanted(self) -> bool:
        """Return whether what arrives may be sent anywhere."""
        wanted = [self.wanted() if rule.destinations is None else rule.destinations for rule in self._rules]
        return any(wanted) or any(rule.matcher for rule in self._rules)

    def health_of(self, name: str) -> Destination:
        """Return the health of a destination."""
        if name not in self._health:
            retry = self._settings.retry

            def probe(name: str) -> None:
                self.must_know(name)
                self._transport.probe(self._loopback, name)

            check = self._transport.check
            self._health[name] = Destination(name, probe, self._wake, retry.first, retry.longest, check)
        return self._health[name]

    def shown(self, name: str) -> dict[str, Any]:
        """Return the health of a destination, for a person."""
        found = self.health_of(name).shown()
        return found if name in self.known() else {**found, "Away": True, "Error": f"Orthanc does not know {name} now"}

    def all_health(self) -> list[Destination]:
        """Return the health of all that were looked at once."""
        return [*self._health.values()]

    def is_paused(self, name: str) -> bool:
        """Return whether what waits for it is held back: by a person, or because the configuration names it no more."""
        return name in self._held or bool(self._ledger.get_value(f"paused {name}"))

    def pause(self, name: str, paused: bool) -> None:
        """Hold back what waits for a destination, or send it again; also over restarts."""
        self._ledger.set_value(f"paused {name}", int(paused))
        if not paused:
            self._held.discard(name)

    def narrow(self, name: str) -> None:
        """Send to a destination by one job at a time, for an hour from now: it has rejected a second association."""
        if not self.narrow_until(name):
            log = orthanc.LogInfo if self._ledger.get_value(f"narrow {name}") else orthanc.LogWarning
            log(
                f"{self._name}: {name} rejected an association while it had another one: it gets one at a time from now on "
                f"(more are tried again in {WIDER_AGAIN_SECONDS // 60} minutes)"
            )
        self._ledger.set_value(f"narrow {name}", int(time.time()))

    def narrow_until(self, name: str) -> float | None:
        """Return until when a destination gets one job at a time, as Unix time; None: it gets as many as are configured."""
        since = self._ledger.get_value(f"narrow {name}")
        return since + WIDER_AGAIN_SECONDS if since - 1 < time.time() < since + WIDER_AGAIN_SECONDS else None

    def hold_unnamed(self) -> None:
        """Hold what waits for destinations that no rule names any more: nothing is sent there, and nothing is dropped.

        A person who takes a destination out of the configuration wants that. What a person sent by a route is sent.
        """
        listed = self._settings.destinations
        if any(rule.matcher or (rule.destinations is None and listed is None) for rule in self._rules):
            return  # any destination may be meant
        named = {
            name for rule in self._rules for name in (listed if rule.destinations is None else rule.destinations) or ()
        } | self._alternates()
        for name, number in WorkView(self._ledger).unfinished_listing("Instances").items():
            if name in named:
                continue
            self._held.add(name)
            orthanc.LogWarning(
                f"{self._name}: {number} deliveries wait for {name}, which the configuration names no more, and are held; "
                f"POST /{self._name}/destinations/{name}/resume sends them, DELETE /{self._name}/deliveries/{{id}} drops one"
            )

    def is_open(self, name: str) -> bool:
        """Return whether this is an hour at which it may be sent to."""
        options = self._settings.destination_options.get(name)
        return options is None or is_open(options.windows, datetime.datetime.now())  # noqa: DTZ005 - local, as written

    def _alternates(self) -> set[str]:
        return {name for alternates in self._all_alternates for names in alternates.values() for name in names}

    def _replaced(self) -> set[str]:
        return {name for alternates in self._all_alternates for name in alternates}

    def _log_unknown(self) -> None:
        of_rules = (name for rule in self._rules for name in rule.destinations or ())
        wanted = {*(self._settings.destinations or ()), *of_rules}
        if self._missing_section and self._known:
            orthanc.LogWarning(
                f"{self._name}: the configuration has no section {self._missing_section}, so every study is sent to every "
                f"destination that Orthanc knows: {', '.join(self._known)}"
            )
        self.unknown, self.missing = "", sorted(wanted - self._known.keys())
        if self.missing:
            missing = ", ".join(_hinted(each, self._known) for each in self.missing)
            self.unknown = (
                f"Destinations names {missing}, which Orthanc does not know; "
                f"known are: {', '.join(self._known) or 'none'}. The others are served, and what arrives for it waits."
            )
            orthanc.LogError(f"{self._name}: {self.unknown}")
        if unknown := sorted(self._alternates() - self._known.keys() - wanted):
            orthanc.LogWarning(
                f"{self._name}: Alternates names {one_line(', '.join(unknown))}, which Orthanc does not know (yet); "
                f"known are: {', '.join(self._known) or 'none'}. Nothing goes there."
            )
        if unknown := sorted(self._replaced() - self._known.keys() - wanted):
            orthanc.LogWarning(
                f"{self._name}: Alternates are for {one_line(', '.join(unknown))}, which Orthanc does not know (yet); "
                f"known are: {', '.join(self._known) or 'none'}. These alternates have no effect."
            )
        if unknown := sorted(self._settings.destination_options.keys() - self._known.keys() - wanted):
            orthanc.LogWarning(
                f"{self._name}: DestinationOptions names {one_line(', '.join(unknown))}, which Orthanc does not know (yet); "
                f"known are: {', '.join(self._known) or 'none'}. These options have no effect."
            )


def _hinted(name: str, known: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a name that Orthanc does not know, with the one that was meant where it is an AE title, or in the wrong case."""
    shown = one_line(name) if name == name.strip() else json.dumps(name)
    for each, entry in known.items():
        if entry.get("AET") == name:
            return f"{shown} (the AE title of {each}: write {each})"
        if each.lower() == name.strip().lower():
            return f"{shown} (did you mean {each}?)"
    return shown
