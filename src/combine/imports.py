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

    Not counted is what a script can do without: an import in a `try` that catches ImportError, and imports of those modules
    of a package that are loaded by a name that is worked out (each kind of broker of dicom_events needs a library of its own).
    """
    own_folder = Path(__file__).resolve().parent  # the first of sys.path, but not where Orthanc looks
    installed = [path for path in sys.path if Path(path).resolve() != own_folder]
    for source in sources:
        folders = [source.path, source.path.resolve().parent] if source.package else [source.path.resolve().parent]
        places = [*installed, *map(str, folders), *([str(output.resolve().parent)] if output else [])]
        needed = {name.partition(".")[0] for name in imported(map(without_guarded, loaded(source)))}
        missing = [
            top
            for top in sorted(needed & source.outside - sys.stdlib_module_names - {"orthanc"})
            if importlib.machinery.PathFinder.find_spec(top, places) is None
        ]
        if missing:
            which = f"{source.path} imports {', '.join(missing)}"
            yield f"{which}: neither beside the script nor installed here; Orthanc's Python needs it"


def loaded(source: Source) -> list[ast.Module]:
    """Return the files of a script that its main file imports, and those that these import."""
    found, todo = dict[str, ast.Module](), [source.main]
    while todo:
        if (file := todo.pop()) not in found:
            found[file] = source.trees[file]
            todo += imported_files(file, source.trees)
    return list(found.values())


def without_guarded(tree: ast.Module) -> ast.Module:
    """Return a tree without the imports in a `try` that catches their failure."""
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try) and any(map(_catches_import_error, node.handlers))
        for statement in node.body
        for inner in ast.walk(statement)
    }
    return ast.Module([node for node in ast.walk(tree) if id(node) not in guarded and _imports(node)], [])  # type: ignore[misc]


def _imports(node: ast.AST) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or any(
        isinstance(node, ast.Name) and node.id in CAUGHT for node in ast.walk(handler.type)
    )
