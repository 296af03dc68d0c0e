# SPDX-License-Identifier: AGPL-3.0-or-later
"""What scripts register, and who registers what only one can have."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from combine.runtime.routes import SHARED, collide, single_owner
from combine.sources import Source, nodes_of
from combine.texts import FUNCTIONS, attributes_of, imported_values, reachable, texts

REGISTER_ROUTE = "RegisterRestCallback"
HAND_OVER = "add_script_entries"  # what a script calls that leaves these routes to the runtime of a combined file
RUNTIME_ROUTES = ("/scripts", "/scripts/health")


@dataclass(frozen=True)
class Registration:
    """A call of `orthanc.Register…` as a script has it, with the route where it is a constant."""

    function: str
    route: str | None
    place: str


def route_functions(source: Source) -> dict[str, int]:
    """Return the functions of a script that register a route for others: name, and which parameter is the route."""
    found = {}
    for tree in source.trees.values():
        for function in (node for node in nodes_of(tree) if isinstance(node, FUNCTIONS)):
            parameters = [each.arg for each in function.args.args if each.arg not in ("self", "cls")]
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and node.args and _called(node) == REGISTER_ROUTE:
                    route = getattr(node.args[0], "id", "")
                    found.update({function.name: parameters.index(route)} if route in parameters else {})
    return found


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def registrations(source: Source) -> Iterator[Registration]:
    """Yield what a script registers, by `orthanc` or by a function of its own; a route that is not written down is None."""
    others, attributes = route_functions(source), attributes_of(source.trees.values())
    for file, tree in source.trees.items():
        nodes = list(reachable(tree, imported_values(file, source.trees), attributes))
        modules, functions = {"orthanc"}, dict[str, str]()
        for node, _ in nodes:
            if isinstance(node, ast.Import):
                modules |= {alias.asname for alias in node.names if alias.name == "orthanc" and alias.asname}
            elif isinstance(node, ast.ImportFrom) and node.module == "orthanc":
                functions |= {alias.asname or alias.name: alias.name for alias in node.names}
        for node, names in nodes:
            if not isinstance(node, ast.Call):
                continue
            name, place = functions.get(getattr(node.func, "id", ""), ""), f"{file}, line {node.lineno}"
            if isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in modules:
                name = node.func.attr
            number = others.get(_called(node), 0 if name == REGISTER_ROUTE else len(node.args))
            if number < len(node.args):
                routes: list[str | None] = [*texts(node.args[number], names)]
                yield from (Registration(REGISTER_ROUTE, route, place) for route in routes or [None])
            elif name.startswith("Register"):
                yield Registration(name, None, place)


def conflicts(sources: list[Source]) -> Iterator[str]:
    """Say who registers what only one can have."""
    earlier: list[Registration] = []
    for source in sources:
        left = RUNTIME_ROUTES if leaves_routes_to_runtime(source) else ()
        own = [one for one in registrations(source) if one.route not in left]
        for one, other in itertools.product(own, earlier):
            if one.route is not None and other.route is not None and collide(one.route, other.route):
                routes = one.route if one.route == other.route else f"{other.route} and {one.route}"
                yield f"{other.place} and {one.place}: the same route ({routes})"
            elif is_single(one.function) and single_owner(one.function) == single_owner(other.function):
                names = sorted({one.function, other.function})
                yield f"{other.place} and {one.place}: only one script can have {' and '.join(names)}"
        earlier += own


def leaves_routes_to_runtime(source: Source) -> bool:
    """Return whether a script hands `RUNTIME_ROUTES` over to the runtime (`common.status`), which answers for all scripts."""
    nodes = itertools.chain.from_iterable(map(nodes_of, source.trees.values()))
    return any(isinstance(node, ast.Constant) and node.value == HAND_OVER for node in nodes)


def is_single(register: str) -> bool:
    several = (REGISTER_ROUTE, "RegisterDictionaryTag", "RegisterPrivateDictionaryTag", "RegisterErrorCode")
    return register not in SHARED and register not in several
