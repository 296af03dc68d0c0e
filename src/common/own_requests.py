# SPDX-License-Identifier: AGPL-3.0-or-later
"""What scripts ask their own Orthanc for, told to those of a combined file that keep a record: filters are not shown it."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orthanc

REPORT, LISTEN = (
    "report_request",
    "listen_to_requests",
)  # what the runtime of a combined file adds to a script's `orthanc`
ASKED_BY = "X-Asked-By"  # the header by which a script says for whom it sends a request


class OwnRequest(NamedTuple):
    """A request that a script is about to send.

    Attributes
    ----------
    path : with its query.
    resources : what a bulk request names.
    asked_by : who asked the script for it, as far as that is known.
    """

    method: str
    path: str
    resources: Sequence[str] = ()
    asked_by: Mapping[str, Any] = {}


def asked_by(who: Mapping[str, Any]) -> dict[str, str]:
    """Return the header that says who asked for a request; what is None is left out."""
    return {ASKED_BY: json.dumps({name: value for name, value in who.items() if value is not None})}


def report_request(method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> None:
    """Tell who listens that this script is about to send a request to its own Orthanc."""
    if (report := getattr(orthanc, REPORT, None)) is None:
        return  # the script is alone
    resources = body.get("Resources", ()) if isinstance(body, Mapping) else ()
    report(tuple(OwnRequest(method, path, resources, json.loads((headers or {}).get(ASKED_BY, "{}")))))


def listen_to_requests(listener: Callable[[str, OwnRequest], None]) -> None:
    """Call a function with the name of each other script of a combined file, and what it asks Orthanc for: at once."""
    if (listen := getattr(orthanc, LISTEN, None)) is not None:
        listen(functools.partial(_hand_on, listener))  # each script has a class OwnRequest of its own


def _hand_on(listener: Callable[[str, OwnRequest], None], script: str, fields: tuple[Any, ...]) -> None:
    listener(script, OwnRequest(*fields))
