# SPDX-License-Identifier: AGPL-3.0-or-later
"""Works out the texts that a script has written down, such as its routes, without running it."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

from combine.sources import nodes_of

Names: TypeAlias = Mapping[
    str, list[ast.expr]
]  # what each name may be; an empty list: something that is not written down
Attributes: TypeAlias = Mapping[str, Mapping[str, list[ast.expr]]]  # of each class, what its attributes may be

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def constant(node: ast.AST, names: dict[str, ast.AST]) -> str | None:
    """Work out a text that is written down: literals, their sums, and names that are given one once."""
    found = texts(node, {name: [value] for name, value in names.items() if isinstance(value, ast.expr)})
    return found[0] if len(found) == 1 else None


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


def texts(node: ast.AST, names: Names) -> list[str]:
    """Return the texts that an expression may be: literals, their sums, and names that are given some; none if unknown."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.Name | ast.Attribute):
        own = ast.unparse(node)
        others = {name: values for name, values in names.items() if name != own}
        return [text for value in names.get(own, ()) for text in texts(value, others)]
    parts: list[ast.expr] = []
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [node.left, node.right]
    elif isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values]
    return ["".join(each) for each in itertools.product(*(texts(part, names) for part in parts))] if parts else []


def imported_values(file: str, trees: Mapping[str, ast.Module]) -> Names:
    """Return what the names are that a file imports from other files of its script, as `from .settings import NAME`."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes_of(trees[file]):
        if isinstance(node, ast.ImportFrom) and (other := _file_of(_module_path(file, node), trees)):
            values = assigned(trees[other])
            for alias in node.names:
                value = values.get(alias.name)
                found |= {alias.asname or alias.name: [value]} if isinstance(value, ast.expr) else {}
    return found


def imported_files(file: str, trees: Mapping[str, ast.Module]) -> list[str]:
    """Return the files of the script that a file of it imports."""
    paths: list[list[str]] = []
    for node in nodes_of(trees[file]):
        if isinstance(node, ast.Import):
            paths += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            path = _module_path(file, node)
            paths += [path, *([*path, alias.name] for alias in node.names)]
    parts = [
        path[:length] for path in paths for length in range(1, len(path) + 1)
    ]  # of a.b, the file of a is loaded too
    return [found for path in parts if (found := _file_of(path, trees))]


def _module_path(file: str, node: ast.ImportFrom) -> list[str]:
    folder = file.split("/")[: -node.level] if node.level else []
    return [*folder, *(node.module or "").split(".")] if node.module else folder


def _file_of(path: list[str], trees: Mapping[str, ast.Module]) -> str | None:
    names = (f"{'/'.join(path)}.py", f"{'/'.join(path)}/__init__.py")
    return next((name for name in names if name in trees), None)


def reachable(node: ast.AST, names: Names, attributes: Attributes) -> Iterator[tuple[ast.AST, Names]]:
    """Walk a tree without what is under `if __name__ == "__main__"`, which Orthanc never runs; with what names may be there."""
    todo = [(node, names)]
    while todo:
        node, names = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).replace("'", '"') == '__name__ == "__main__"':
            todo += [(other, names) for other in reversed(node.orelse)]
            continue
        yield node, names
        if isinstance(node, FUNCTIONS):
            names = {**names, **_parameters(node, attributes)}
        if isinstance(node, (ast.Module, *FUNCTIONS)):
            names = {**names, **_local(node, names)}
        todo += [(child, names) for child in reversed(list(ast.iter_child_nodes(node)))]


def _local(node: ast.AST, names: Names) -> dict[str, list[ast.expr]]:
    """Return the names that a module or a function sets in one place: by `x = …`, or by a loop over what is written down."""
    found: dict[str, list[ast.expr]] = {}
    inner = list(_own(node))
    set_here = [each.id for each in inner if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)]
    for each in inner:
        if isinstance(each, ast.Assign | ast.AnnAssign) and each.value is not None:
            target = each.targets[0] if isinstance(each, ast.Assign) else each.target
            if isinstance(target, ast.Name):
                found[target.id] = [each.value]
    for each in inner:
        if isinstance(each, ast.For):
            found.update(_of_loop(each, {**names, **found}))
    return {name: found.get(name, []) if set_here.count(name) == 1 else [] for name in set(set_here)}


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what is inside a module or a function, without the functions and classes in it, which have names of their own."""
    todo = [node]
    while todo:
        inner = [
            child
            for child in ast.iter_child_nodes(todo.pop())
            if not isinstance(child, (ast.ClassDef, ast.Lambda, *FUNCTIONS))
        ]
        yield from inner
        todo += reversed(inner)


def _of_loop(loop: ast.For, names: Names) -> Iterator[tuple[str, list[ast.expr]]]:
    items = _elements(loop.iter, names)
    if isinstance(loop.target, ast.Name):
        yield loop.target.id, items
    elif isinstance(loop.target, ast.Tuple):
        for number, target in enumerate(loop.target.elts):
            if isinstance(target, ast.Name):
                tuples = (item.elts for item in items if isinstance(item, ast.Tuple | ast.List))
                yield target.id, [each[number] for each in tuples if number < len(each)]


def _elements(node: ast.AST, names: Names) -> list[ast.expr]:
    """Return what a loop goes over: a list or a tuple that is written down, the keys or the items of a dict."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "items":
        inner = _value(node.func.value, names)
        pairs = zip(inner.keys, inner.values, strict=True) if isinstance(inner, ast.Dict) else ()
        return [ast.Tuple([key, value], ast.Load()) for key, value in pairs if key is not None]
    node = _value(node, names)
    if isinstance(node, ast.Dict):
        return [key for key in node.keys if key is not None]
    return node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else []


def _value(node: ast.AST, names: Names) -> ast.AST:
    values = names.get(node.id, []) if isinstance(node, ast.Name) else []
    return values[0] if len(values) == 1 else node


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef, attributes: Attributes) -> dict[str, list[ast.expr]]:
    """Return the parameters, which are unknown, and the attributes of one that is annotated with a class of the script."""
    found: dict[str, list[ast.expr]] = {}
    for parameter in function.args.args:
        found[parameter.arg] = []
        if isinstance(parameter.annotation, ast.Name):
            for name, values in attributes.get(parameter.annotation.id, {}).items():
                found[f"{parameter.arg}.{name}"] = values
    return found


def attributes_of(trees: Iterable[ast.Module]) -> Attributes:
    """Return, of each class of a script, what it is made with: `forwarder.name` is what `Forwarder(…)` gets for `name`."""
    parameters: dict[str, list[str]] = {}
    calls: dict[str, list[ast.Call]] = {}
    for node in (node for tree in trees for node in nodes_of(tree)):
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    parameters[node.name] = [each.arg for each in method.args.args[1:]]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            calls.setdefault(node.func.id, []).append(node)
    return {
        cls: {
            name: [call.args[number] for call in calls.get(cls, ()) if number < len(call.args)]
            for number, name in enumerate(names)
        }
        for cls, names in parameters.items()
    }
