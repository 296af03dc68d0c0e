# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/quirks.py: edit that, never this file.
"""What a version of Orthanc, of its plugin or of Python needs and others don't: each with the version and the reason.

Two more are beside the only code that needs them: `leave_pools` (`event_dispatcher/threads.py`) takes threads that hang out
of a list of CPython's (3.11 to 3.14); combine's runtime makes the first `isinstance()` of an error early (plugin 7.1 with
Python 3.14 crashes at its end otherwise).
"""

import os
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

KEPT_ALIVE: list[Any] = []  # what Orthanc calls (`kept_alive`)
KeptT = TypeVar("KeptT", bound=Callable[..., Any])
# Whether values of a GET arrive percent-decoded depends on the web server that Orthanc was built with (Debian 12's and
# 13's hand them over raw, forky's decoded), not on a version that could be asked for. So a route asks itself, once.
PROBE = "arrives-decoded"  # a parameter that only we send
ARRIVAL: list[bool] = []  # whether they arrive decoded, when it is known


def kept_alive(callback: KeptT) -> KeptT:
    """Return what Orthanc is to call, and keep it as long as the process lives: 1.12.7 and later crash at shutdown otherwise.

    Register what this returns: a method is another object each time that it is named.
    """
    KEPT_ALIVE.append(callback)
    return callback


def import_for_small_stacks() -> None:
    """Import what http.client imports at its first connection, for which the stack of Orthanc's HTTP threads is too small.

    Python 3.14 needs more than the 100 KB of such a thread to import it.
    """
    import encodings.idna  # noqa: F401


def answer_probe(output: Any, query: Mapping[str, str | None]) -> bool:
    """Answer how the value of `PROBE` has arrived, if that is what a GET asks; return whether it was."""
    if query.keys() != {PROBE}:
        return False
    output.AnswerBuffer(b"A" if query[PROBE] == "A" else b"%41", "text/plain")
    return True


def values_arrive_decoded(uri: str, get: Callable[[str], Any]) -> bool:
    """Return whether values of a GET arrive percent-decoded; ask one of our routes with `get` if it is not known yet."""
    if not ARRIVAL:
        ARRIVAL.append(get(f"{urllib.parse.quote(uri)}?{PROBE}=%41") == b"A")
    return ARRIVAL[0]


def send_status(output: Any, status: int, body: str) -> None:
    """Send a status with a body of JSON: plugin 4.0 and 4.1 want its length in bytes as a third argument."""
    try:
        output.SendHttpStatus(status, body)  # from plugin 4.2, which adds a Content-Type by itself
    except TypeError:
        output.SetHttpHeader("Content-Type", "application/json")
        output.SendHttpStatus(status, body, len(body.encode()))


def folder_on_command_line(parent: Path) -> Path | None:
    """Return the folder in `parent` that the command line of this process names, if it names one.

    Where the configuration is a folder given without a slash at its end, `GetConfigurationPath()` is its parent (1.10.1 and
    later). Only Linux has `/proc`: elsewhere there is no folder to find.
    """
    try:
        words = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    folders = (Path(os.fsdecode(word)) for word in words if word)
    return next((each.absolute() for each in folders if each.is_dir() and each.absolute().parent == parent), None)
