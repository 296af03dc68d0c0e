# SPDX-License-Identifier: AGPL-3.0-or-later
"""What needs a person, and what goes on by itself but should be known: one list, from what scripts say of themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .gathering import FORWARDERS, Gathered

ACT, WATCH = "act", "watch"  # somebody must do something; it heals by itself, and nothing is lost meanwhile


def alert(
    identifier: str, level: str, text: str, panel: str, *row: str, why: object = "", count: int = 1, **query: str
) -> dict[str, Any]:
    """Return an alert.

    Parameters
    ----------
    identifier : the same as long as it lasts.
    panel, row, query : where the page shows more.
    why : what a script or a destination said.
    """
    return {
        **{"ID": identifier, "Level": level, "Text": text, "Why": str(why or ""), "Count": count},
        **{"Panel": panel, "Row": [*row], "Query": query},
    }


def alerts_of(found: Gathered) -> list[dict[str, Any]]:
    """Return all alerts, those that need a person first."""
    every = [*_of_scripts(found), *_of_destinations(found), *_of_others(found)]
    return sorted(every, key=lambda each: each["Level"] != ACT)  # stable


def _of_scripts(found: Gathered) -> Iterator[dict[str, Any]]:
    for script in found.scripts:
        if not script.get("Healthy"):
            name, reason = script["Name"], script.get("Reason") or script.get("State")
            text = f"{name} runs with trouble" if script.get("State") == "running" else f"{name} does not run"
            place = ("events",) if name == "dicom_events" and _has_wrong_broker(found) else ("scripts", name)
            yield alert(f"script:{name}", ACT, text, *place, why=reason)


def _has_wrong_broker(found: Gathered) -> bool:
    """Return whether a broker is off until its configuration is corrected: its panel says more than that of the scripts."""
    brokers = found.statuses.get("dicom_events", {}).get("Brokers") or {}
    return any(each.get("State") == "misconfigured" for each in brokers.values())


def state_of_destination(entry: dict[str, Any]) -> str:
    """Return the state of a destination in one word: what keeps it from being sent to comes first."""
    if entry.get("Paused"):
        return "paused"
    if entry.get("Misconfigured"):
        return "misconfigured"
    if entry.get("Away"):
        return "away"
    return "up" if entry.get("Open", True) else "closed"


def _of_destinations(found: Gathered) -> Iterator[dict[str, Any]]:
    for script, destinations in found.destinations.items():
        for name, entry in destinations.items():
            place, state, totals = ("destinations", script, name), state_of_destination(entry), entry.get("Totals", {})
            waiting, dead = totals.get("waiting", 0), totals.get("dead", 0)
            if dead:
                text = f"{counted(dead, 'delivery', 'deliveries')} to {name} failed for good"
                yield alert(f"dead:{script}:{name}", ACT, text, *place, count=dead)
            if state == "misconfigured":
                text = f"{name} is not as it is configured"
                yield alert(f"destination:{script}:{name}", ACT, text, *place, why=entry.get("Error"))
            elif state == "away":
                text = f"{name} is away, {counted(waiting, 'delivery waits', 'deliveries wait')}"
                yield alert(f"destination:{script}:{name}", WATCH, text, *place, why=entry.get("Error"), count=waiting)
            elif state == "paused":
                text = f"{name} is paused, {counted(waiting, 'delivery waits', 'deliveries wait')}"
                yield alert(f"paused:{script}:{name}", WATCH, text, *place, count=waiting)


def _of_others(found: Gathered) -> Iterator[dict[str, Any]]:
    for name, status in found.statuses.items():
        dead = status.get("Totals", {}).get("dead", 0)
        if name == "auto_retries" and dead:
            text = f"{counted(dead, 'job', 'jobs')} of others failed for good"
            yield alert("dead:auto_retries", ACT, text, "scripts", name, count=dead)
        if name == "anonymize_series" and dead:
            text = f"{counted(dead, 'de-identification', 'de-identifications')} failed for good"
            yield alert("dead:anonymize_series", ACT, text, "deidentification", count=dead, state="dead")
        if name not in FORWARDERS:
            yield from _of_places(name, status.get("Brokers") or status.get("Services") or {})
    if found.held:
        text = f"{counted(found.held, 'image was', 'images were')} held back from de-identified copies"
        yield alert("held:anonymize_series", WATCH, text, "deidentification", count=found.held)


def _of_places(script: str, places: Any) -> Iterator[dict[str, Any]]:
    """Yield alerts of brokers and of services that are notified."""
    if not isinstance(places, dict):
        return
    panel = "events" if script == "dicom_events" else "moves"
    for name, entry in places.items():
        if dead := entry.get("DeadLetters", entry.get("Dead", 0)):
            text = f"{counted(dead, 'message', 'messages')} to {name} failed for good"
            yield alert(
                f"dead:{script}:{name}", ACT, text, panel, count=dead, **({"broker": name} if panel == "events" else {})
            )
        if entry.get("State") == "orphaned":
            text = f"{name} is not configured any more, and something waits for it"
            yield alert(f"orphaned:{script}:{name}", ACT, text, panel)


def counted(number: int, one: str, many: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {one if number == 1 else many}"
