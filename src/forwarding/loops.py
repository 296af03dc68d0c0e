# SPDX-License-Identifier: AGPL-3.0-or-later
"""What came from a destination itself: it is not sent back there."""

from collections.abc import Collection, Mapping
from typing import Any

import orthanc

from common.routes import one_line
from forwarding.addresses import Host, plain_address
from forwarding.context import Context
from forwarding.destinations import Destinations

LOOK_UP_SECONDS = 10.0  # for which the forwarder's thread waits for DNS, before the sender's AE title alone decides
LOOK_UP_IN_ROUTE_SECONDS = 1.0
NOT_SENT_BACK = "not sent back to "  # in the ledger's numbers, before the name of a destination


class Loops:
    """Finds what came from a destination itself: its sender had the destination's AE title, and an address of its host.

    The AE title alone says little: many Orthancs are called ORTHANC. It decides where no address is known.
    """

    def __init__(self, context: Context, destinations: Destinations) -> None:
        self._name, self._ledger, self._transport = context.name, context.ledger, context.transport
        self._options, self._destinations = context.settings.destination_options, destinations
        self._stopping = context.stopping
        self._hosts: dict[str, Host] = {}
        self._warned = set[tuple[str, str]]()

    def came_from(self, name: str, origins: Mapping[str, Mapping[str, str]], wait: float) -> set[str]:
        """Return which of these instances came from a destination; waits so many seconds for the addresses of its host."""
        entry = self._destinations.last_entry(name)
        if entry is None:
            return set()
        titled = {
            instance: plain_address(origin.get("RemoteIP", ""))
            for instance, origin in origins.items()
            if self._transport.came_from(origin, entry)
        }
        addresses = self._addresses(name, entry, wait) if any(titled.values()) else frozenset[str]()
        own = {instance for instance, ip in titled.items() if not ip or not addresses or ip in addresses}
        if others := sorted({ip for instance, ip in titled.items() if instance not in own}):
            host = f"{one_line(str(entry['Host']))} ({', '.join(sorted(addresses))})"
            text = f"what has the AE title of {name}, but comes from {others[0]} and not from {host}, is sent to {name}"
            self._warn_once(name, "elsewhere", text)
        return own

    def count(self, instances: Mapping[str, Collection[str]]) -> None:
        """Count what is not sent back, by destination: inside the transaction in which that is decided."""
        for name, number in ((name, len(some)) for name, some in instances.items() if some):
            key = f"{NOT_SENT_BACK}{name}"
            self._ledger.set_value(key, self._ledger.get_value(key) + number)
            text = f"what came from {name} itself is not sent back to it; the status counts it (NotSentBack)"
            self._warn_once(name, "itself", text)

    def totals(self) -> dict[str, int]:
        """Return how many instances were not sent back, by destination."""
        rows = self._ledger.rows("SELECT name, value FROM state WHERE name LIKE ? ORDER BY name", f"{NOT_SENT_BACK}%")
        return {row["name"].removeprefix(NOT_SENT_BACK): row["value"] for row in rows}

    def _addresses(self, name: str, entry: Mapping[str, Any], wait: float) -> frozenset[str]:
        """Return the addresses of a destination; an option may send to another host than its entry names."""
        options = self._options.get(name)
        hosts = sorted({str(entry["Host"]), str((options.options if options else {}).get("Host", entry["Host"]))})
        known = [self._hosts.setdefault(host, Host(host, self._stopping)).addresses(wait) for host in hosts]
        found = frozenset[str]().union(*known)
        if not found:
            text = f"no address of {one_line(', '.join(hosts))} is known: what has the AE title of {name} counts as from there"
            self._warn_once(name, "unknown", text)
        return found

    def _warn_once(self, name: str, what: str, text: str) -> None:
        if (name, what) not in self._warned and not self._stopping.is_set():
            self._warned.add((name, what))
            orthanc.LogWarning(f"{self._name}: {text}")
