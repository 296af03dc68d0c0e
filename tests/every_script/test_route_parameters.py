# SPDX-License-Identifier: AGPL-3.0-or-later
"""The parameters of every route of every script: all are in the table, and of whatever type a value is, it is checked."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.parameters import ParameterError, Text, parameters_of, read_parameters
from testing.standin import StandIn
from tests.route_table import ACT_ON_GET, ROUTES
from tests.scripts import FILES


def registered() -> dict[str, Any]:
    """The handlers that the scripts register, by method and pattern."""
    found: dict[str, Any] = {}
    for script in FILES:
        standin = StandIn("7.1")
        with standin.installed():
            for pattern, handlers in standin.load(script).ROUTES.items():
                found |= {f"{method} {pattern}": handler for method, handler in handlers.items()}
        for name in [each for each in sys.modules if each.partition(".")[0] == script.parent.name]:
            del sys.modules[name]  # the modules of a package hold the stand-in
    return found


HANDLERS = registered()


def test_the_table_names_every_route_of_every_script_with_every_parameter() -> None:
    found = {route: sorted(getattr(handler, "parameters", {})) for route, handler in HANDLERS.items()}
    assert found == {route: sorted(parameters) for route, parameters in ROUTES.items()}
    assert {route for route, handler in HANDLERS.items() if getattr(handler, "get_acts", False)} >= ACT_ON_GET


@pytest.mark.parametrize("route", [route for route, parameters in ROUTES.items() if parameters])
def test_the_values_of_the_table_are_allowed(route: str) -> None:
    read_parameters(parameters_of(HANDLERS[route]), ROUTES[route], from_query=False)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
EVERY_PARAMETER = {(route, name) for route, parameters in ROUTES.items() for name in parameters}


@given(st.sampled_from(sorted(EVERY_PARAMETER)), ANY_JSON)
@example(("POST /auto-forward-modality/send", "Level"), {})
@example(("POST /auto-forward-modality/send", "Destinations"), [])
def test_a_parameter_of_any_type_is_what_the_handler_expects_or_refused_with_what_is_allowed(
    which: tuple[str, str], value: Any
) -> None:
    route, name = which
    declared: Text = parameters_of(HANDLERS[route])[name]
    for from_query in (True, False) if isinstance(value, str) else (False,):
        try:
            found, complaint = read_parameters({name: declared}, {name: value}, from_query=from_query)[name], ""
        except ParameterError as error:
            found, complaint = None, str(error)
        assert found not in ("", [], {}, None) or (complaint.startswith(f"{name} is ") and ", allowed: " in complaint)
        assert complaint.isprintable()
