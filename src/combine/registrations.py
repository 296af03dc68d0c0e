# SPDX-License-Identifier: AGPL-3.0-or-later
"""What scripts register, and who registers what only one can have."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from combine.runtime.routes import SHARED, collide, single_owner
from combine.sources import Source


@dataclass(frozen=True)
class Registration:
    """A call of `orthanc.Register…` as a script has it, with the route where it is a constant."""

    function: str
    route: str | None
    place: str


def reachable(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree without what is under `if __name__ == "__main__"`, which Orthanc never runs."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).replace("'", '"') == '__name__ == "__main__"':
            for other in child.orelse:
                yield from reachable(other)
        else:
            yield from reachable(child)


def constant(node: ast.AST, names: dict[str, ast.AST]) -> str | None:
    """Work out a text that is written down: literals, their sums, and names that are given one once."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        return constant(names[node.id], {name: value for name, value in names.items() if name != node.id})
    parts: list[ast.expr] = []
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [node.left, node.right]
    elif isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values]
    texts = [constant(part, names) for part in parts]
    return "".join(text for text in texts if text is not None) if texts and None not in texts else None


def assigned(tree: ast.Module | ast.ClassDef) -> dict[str, ast.AST]:
    """Collect the names that the top of a module or a class gives a value once."""
    values: dict[str, list[ast.AST]] = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        both_tuples = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
        pairs = zip(target.elts, node.value.elts, strict=False) if both_tuples else [(target, node.value)]  # type: ignore[attr-defined]
        for name, value in pairs:
            values.setdefault(ast.unparse(name), []).append(value)
    return {name: found[0] for name, found in values.items() if len(found) == 1}


def registrations(source: Source) -> Iterator[Registration]:
    for file, tree in source.trees.items():
        nodes, names = list(reachable(tree)), assigned(tree)
        modules, functions = {"orthanc"}, dict[str, str]()
        for node in nodes:
            if isinstance(node, ast.Import):
                modules |= {alias.asname for alias in node.names if alias.name == "orthanc" and alias.asname}
            elif isinstance(node, ast.ImportFrom) and node.module == "orthanc":
                functions |= {alias.asname or alias.name: alias.name for alias in node.names}
        for node in nodes:
            if not isinstance(node, ast.Call):
                continue
            name = functions.get(getattr(node.func, "id", ""), "")
            if isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "") in modules:
                name = node.func.attr
            if name.startswith("Register"):
                route = constant(node.args[0], names) if name == "RegisterRestCallback" and node.args else None
                yield Registration(name, route, f"{file}, line {node.lineno}")


def conflicts(sources: list[Source]) -> Iterator[str]:
    """Say who registers what only one can have."""
    earlier: list[Registration] = []
    for source in sources:
        own = list(registrations(source))
        for one, other in itertools.product(own, earlier):
            if one.route is not None and other.route is not None and collide(one.route, other.route):
                routes = one.route if one.route == other.route else f"{other.route} and {one.route}"
                yield f"{other.place} and {one.place}: the same route ({routes})"
            elif is_single(one.function) and single_owner(one.function) == single_owner(other.function):
                names = sorted({one.function, other.function})
                yield f"{other.place} and {one.place}: only one script can have {' and '.join(names)}"
        earlier += own


def is_single(register: str) -> bool:
    several = ("RegisterRestCallback", "RegisterDictionaryTag", "RegisterPrivateDictionaryTag", "RegisterErrorCode")
    return register not in SHARED and register not in several
