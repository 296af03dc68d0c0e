# SPDX-License-Identifier: AGPL-3.0-or-later
"""Reads the modules of `src/` for the builder: what each imports, defines and embeds."""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

LIBRARIES = ("common", "forwarding")  # folders that scripts import
PACKAGES = ("dicom_events",)  # folders that stay packages: copied, with what they import as PACKAGE/_common/

Line: TypeAlias = tuple[str, str]  # a line of a built file, and the FILE:LINE of src/ that it comes from (or "")


class BuildError(Exception):
    """A source that can't be built: what is wrong, and where."""


@dataclasses.dataclass
class Module:
    """A module of `src/`, taken apart.

    `imports` are those from outside (text of an import of one name to the comment behind it), `needs` the paths of the
    modules of `src/` that it imports, `names` what it defines, with lines; `preamble` is what must run before the imports
    below it (an import in a `try`, a stand-in for `orthanc`), `body` the rest.
    """

    label: str
    docstring: str
    imports: dict[str, str]
    needs: list[Path]
    names: dict[str, int]
    preamble: list[Line]
    body: list[Line]


class Sources:
    """Reads the modules of `src`, each once."""

    def __init__(self, src: Path) -> None:
        self.src = src
        self._modules: dict[Path, Module] = {}

    def label(self, path: Path) -> str:
        return path.relative_to(self.src.parent).as_posix()

    def module(self, path: Path) -> Module:
        if path not in self._modules:
            self._modules[path] = self._read(path)
        return self._modules[path]

    def _read(self, path: Path) -> Module:
        label, text = self.label(path), path.read_text()
        tree, texts = ast.parse(text, filename=str(path)), text.splitlines()
        module = Module(label, ast.get_docstring(tree, clean=False) or "", {}, [], _names(tree), [], [])
        dropped: set[int] = set()
        last_import = 0
        for node in tree.body:
            if node is tree.body[0] and module.docstring:
                dropped.update(range(node.end_lineno or 0))  # with the licence line above it
            elif isinstance(node, ast.Import | ast.ImportFrom):
                self._take_import(module, path, node, texts)
                dropped.update(_lines_of(node))
                last_import = node.end_lineno or 0
            elif _is_for_types(node):
                dropped.update(_lines_of(node))
            elif isinstance(node, ast.Try) and isinstance(node.body[0], ast.Import | ast.ImportFrom):
                last_import = node.end_lineno or 0
        self._hidden_imports(module, path, tree)
        embedded = self._embedded(path, tree)
        rest: list[tuple[int, str]] = []
        for number, line in enumerate(texts, start=1):
            if number in embedded:
                rest += [(number, each) for each in embedded[number]]
            elif number - 1 not in dropped:
                rest.append((number, line))
        for number, line in rest:
            part = module.preamble if number <= last_import else module.body
            part.append((line, f"{label}:{number}"))
        module.preamble, module.body = _stripped(module.preamble), _stripped(module.body)
        return module

    def _hidden_imports(self, module: Module, path: Path, tree: ast.Module) -> None:
        """Raise BuildError where a function imports from `src/`; a package, which is copied, may, and needs it."""
        for top in tree.body:
            for node in ast.walk(top):
                if node is top or not isinstance(node, ast.ImportFrom) or _is_for_types(top):
                    continue
                if not (source := self._source(path, node)):
                    continue
                if path.relative_to(self.src).parts[0] not in PACKAGES:
                    where = f"{self.label(path)}:{node.lineno}"
                    raise BuildError(f"{where}: import what lies in src/ at the top of the module")
                module.needs += [source] if source not in module.needs else []

    def _take_import(self, module: Module, path: Path, node: ast.Import | ast.ImportFrom, texts: list[str]) -> None:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            return
        where = f"{module.label}:{node.lineno}"
        if source := self._source(path, node):
            if any(alias.asname or alias.name == "*" for alias in node.names):
                raise BuildError(f"{where}: import from src/ by names, without `as`")
            if source not in module.needs and source != self.src / "common" / "embedded.py":  # written out by _embedded
                module.needs.append(source)
            return
        if isinstance(node, ast.ImportFrom) and node.level:
            raise BuildError(f"{where}: there is no such module in src/")
        line = texts[node.lineno - 1]
        comment = line[line.index("  #") :] if node.lineno == node.end_lineno and "  #" in line else ""
        for alias in node.names:
            name = f"{alias.name} as {alias.asname}" if alias.asname else alias.name
            module.imports[
                f"from {node.module} import {name}" if isinstance(node, ast.ImportFrom) else f"import {name}"
            ] = comment if isinstance(node, ast.Import) else ""

    def _source(self, path: Path, node: ast.Import | ast.ImportFrom) -> Path | None:
        """Return the module of `src/` that an import names, if it is one.

        Raises
        ------
        BuildError : a module of `src/` is imported as a whole.
        """
        own = (*LIBRARIES, *(each.stem for each in self.src.iterdir()))
        if isinstance(node, ast.Import):
            if taken := [alias.name for alias in node.names if alias.name.partition(".")[0] in own]:
                raise BuildError(f"{self.label(path)}:{node.lineno}: write `from {taken[0]} import …`, with names")
            return None
        names = (node.module or "").split(".") if node.module else []
        if node.level:
            folder = path.parent
            for _ in range(node.level - 1):
                folder = folder.parent
        elif names and names[0] in own:
            folder = self.src
        else:
            return None
        target = folder.joinpath(*names)
        for each in (target.with_suffix(".py") if names else None, target / "__init__.py"):
            if each is not None and each.is_file() and (each.name != "__init__.py" or names or node.level):
                return each
        raise BuildError(f"{self.label(path)}:{node.lineno}: there is no {'.'.join(names)} in src/")

    def _embedded(self, path: Path, tree: ast.Module) -> dict[int, list[str]]:
        """Return what takes the place of each `NAME = embedded("FILE")`: the text of the file, by line."""
        found: dict[int, list[str]] = {}
        for node in tree.body:
            value = getattr(node, "value", None)
            if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "embedded"):
                continue
            if not (isinstance(node, ast.Assign) and len(value.args) == 1 and isinstance(value.args[0], ast.Constant)):
                raise BuildError(f'{self.label(path)}:{node.lineno}: write `NAME = embedded("FILE")`')
            file = path.parent / str(value.args[0].value)
            if not file.is_file():
                raise BuildError(f"{self.label(path)}:{node.lineno}: there is no {self.label(file)}")
            lines = file.read_text().splitlines(keepends=True)
            name = ast.unparse(node.targets[0])
            made = [f"    {line!r}" for line in lines] or ['    ""']
            found[node.lineno] = [f"{name} = (  # {self.label(file)}", *made, ")"]
            for line in range(node.lineno + 1, (node.end_lineno or 0) + 1):
                found[line] = []
        return found


def _lines_of(node: ast.stmt) -> range:
    return range(node.lineno - 1, node.end_lineno or 0)


def _is_for_types(node: ast.stmt) -> bool:
    """Return whether it is `if TYPE_CHECKING:`, which is for mypy alone."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _stripped(lines: list[Line]) -> list[Line]:
    while lines and not lines[0][0].strip():
        lines = lines[1:]
    while lines and not lines[-1][0].strip():
        lines = lines[:-1]
    return lines


def _names(tree: ast.Module) -> dict[str, int]:
    """Return what a module defines at its top level, each with its line."""
    found: dict[str, int] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = node.lineno
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            each: Iterable[ast.AST] = (inner for target in targets for inner in ast.walk(target))
            found.update({one.id: node.lineno for one in each if isinstance(one, ast.Name)})
    return found
