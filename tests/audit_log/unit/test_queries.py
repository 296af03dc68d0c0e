# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is written down of the query of a request: what a route takes, and nothing else of anybody."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from tests.route_table import ROUTES

HEADERS = {"authorization": "Basic Ym9iOmJ1aWxkZXI="}


def test_a_parameter_that_no_route_takes_is_written_down_without_its_value(source: Callable[[str], ModuleType]) -> None:
    """It may be the token by which a proxy, or the plugin for authorization, knows somebody."""
    watcher: Any = source("audit_log.watching").RequestWatcher({}, lambda: "")
    asked = {"since": "19991231", "token": "h u s h"}
    request = {"method": 1, "headers": HEADERS, "ip": "10.0.0.1", "get": asked}
    seen = watcher.seen("/purge-old-studies", request)
    assert seen.query == {"since": "19991231", "token": "***"}
    assert watcher.seen("/studies/1/archive", request).query == {}


def test_what_the_routes_take_is_written_down_with_its_value(source: Callable[[str], ModuleType]) -> None:
    takes = ROUTES["GET /purge-old-studies"].keys() | ROUTES["GET /anonymize-series/register"].keys()
    known: set[str] = source("audit_log.watching").KNOWN_PARAMETERS
    assert known == takes
