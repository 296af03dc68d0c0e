# SPDX-License-Identifier: AGPL-3.0-or-later
"""The addresses of hosts: looked up in threads of their own, since DNS may take long, and remembered for a while."""

import socket
import threading
import time

ADDRESSES_COUNT_SECONDS = 300.0  # until a host is looked up again
LOOK_UP_AGAIN_SECONDS = 60.0  # after a look-up that found nothing
ADDRESS_LOOK_SECONDS = 0.1  # between looks whether it has ended


class Host:
    """The addresses of one host. If it can't be looked up any more, the last ones count.

    Parameters
    ----------
    stopping : nobody waits for a look-up any more.
    """

    def __init__(self, name: str, stopping: threading.Event) -> None:
        self.name, self._stopping = name, stopping
        self._addresses: frozenset[str] = frozenset()
        self._starting, self._thread, self._next = threading.Lock(), threading.Thread(), 0.0

    def addresses(self, wait: float) -> frozenset[str]:
        """Return its addresses, after at most so many seconds; none: they are not known."""
        with self._starting:
            if not self._thread.is_alive() and time.monotonic() >= self._next:
                self._thread = threading.Thread(target=self._look_up, name=f"looks up {self.name}", daemon=True)
                self._thread.start()
            looking_up = self._thread
        for _ in range(0 if self._addresses else round(wait / ADDRESS_LOOK_SECONDS)):  # else the last ones do meanwhile
            if not looking_up.is_alive() or self._stopping.is_set():
                break
            looking_up.join(ADDRESS_LOOK_SECONDS)
        return self._addresses

    def _look_up(self) -> None:
        try:
            found = socket.getaddrinfo(self.name, None)
        except (OSError, UnicodeError):  # UnicodeError: it can't be the name of a host
            self._next = time.monotonic() + LOOK_UP_AGAIN_SECONDS
            return
        self._addresses = frozenset(plain_address(str(each[4][0])) for each in found)
        self._next = time.monotonic() + ADDRESSES_COUNT_SECONDS


def plain_address(address: str) -> str:
    """Return an address in the form in which it is compared: of IPv4 where it is one, without the name of an interface."""
    return address.lower().removeprefix("::ffff:").partition("%")[0]
