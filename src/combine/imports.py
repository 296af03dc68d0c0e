# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which imports of the scripts can't be found."""

from __future__ import annotations

import ast
import importlib.machinery
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from combine.sources import Source, imported
from combine.texts import imported_files

CAUGHT = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}


def missing_imports(sources: Iterable[Source], output: Path | None) -> Iterator[str]:
    """Say which scripts import what neither lies beside them or beside the combined file, nor is installed here.

    What is imported when a script is loaded is told apart from what is imported later: in a function, or in a module that
    is loaded by a name that is worked out (each kind of broker of dicom_events needs a library of its own). Not counted is
    what a script can do without: an import in a `try` that catches ImportError.
    """
    own_folder = Path(__file__).resolve().parent  # the first of sys.path, but not where Orthanc looks
    installed = [path for path in sys.path if Path(path).resolve() != own_folder]
    for source in sources:
        folders = [source.path, source.path.resolve().parent] if source.package else [source.path.resolve().parent]
        places = [*installed, *map(str, folders), *([str(output.resolve().parent)] if output else [])]
        known = sys.stdlib_module_names | {"orthanc"}
        at_load = _tops(_imports(tree, in_functions=False) for tree in loaded(source)) - known
        later = _tops(map(_imports, source.trees.values())) - known - at_load
        for needed, when in ((at_load, ""), (later, " when that part of it is used")):
            missing = [
                top
                for top in sorted(needed & source.outside)
                if importlib.machinery.PathFinder.find_spec(top, places) is None
            ]
            if missing:
                which = f"{source.path} imports {', '.join(missing)}{when}"
                yield f"{which}: neither beside the script nor installed here; Orthanc's Python needs it{' then' if when else ''}"


def _tops(trees: Iterable[ast.Module]) -> set[str]:
    return {name.partition(".")[0] for name in imported(trees)}


def loaded(source: Source) -> list[ast.Module]:
    """Return the files of a script that its main file imports, and those that these import."""
    found, todo = dict[str, ast.Module](), [source.main]
    while todo:
        if (file := todo.pop()) not in found:
            found[file] = source.trees[file]
            todo += imported_files(file, source.trees)
    return list(found.values())


def _imports(tree: ast.Module, in_functions: bool = True) -> ast.Module:
    """Return the import statements of a tree, without those in a `try` that catches their failure."""
    kept = _statements(tree, in_functions)
    return ast.Module([node for node in kept if isinstance(node, ast.Import | ast.ImportFrom)], [])


def _statements(node: ast.AST, in_functions: bool) -> Iterator[ast.AST]:
    """Yield a statement and those in it, without what is left out; expressions are not looked at."""
    yield node
    left_out = _left_out(node, in_functions)
    for part in ("body", "handlers", "orelse", "finalbody", "cases"):
        for inner in getattr(node, part, ()):
            if inner not in left_out:
                yield from _statements(inner, in_functions)


def _left_out(node: ast.AST, in_functions: bool) -> list[ast.stmt]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return [] if in_functions else node.body
    return node.body if isinstance(node, ast.Try) and any(map(_catches_import_error, node.handlers)) else []


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or any(
        isinstance(node, ast.Name) and node.id in CAUGHT for node in ast.walk(handler.type)
    )
