# SPDX-License-Identifier: AGPL-3.0-or-later
"""Builds the scripts at the top of the repository: each entry of `src/` and the modules it imports become one file.

    python3 src/build.py                                   writes every script (`make build`)
    python3 src/build.py --check                           exits with 1 and names the scripts that `src/` no longer gives
    python3 src/build.py --where purge_old_studies.py:185  prints the file and line of `src/` that a built line comes from

An entry is a module or a folder of `src/`; `LIBRARIES` are what entries import, `PACKAGES` are built by copying them.
A module imports another by `from common.ledger import Ledger`: at the top, without `as`, and never a name that two modules
of one script define. A file that is no Python is embedded by `NAME = embedded("page.html")` (`common/embedded.py`).
Needs nothing but Python 3.11.
"""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

LIBRARIES = ("common", "forwarding")  # folders that scripts import
PACKAGES = ("dicom_events",)  # folders that stay packages: copied, with what they import as PACKAGE/_common/
LINE_LENGTH = 120  # characters

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


class Builder:
    """Builds from `src`, a folder, into the folder above it. Paths in messages are relative to that one."""

    def __init__(self, src: Path) -> None:
        self.src, self.out = src, src.parent
        self._modules: dict[Path, Module] = {}

    def built(self) -> dict[Path, list[Line]]:
        """Return the lines of each built file by its path."""
        found: dict[Path, list[Line]] = {}
        for path in sorted(self.src.iterdir()):
            if path.name in PACKAGES:
                found.update(self._package(path))
            elif path.suffix == ".py" and path.name != "build.py":
                found[self.out / path.name] = self._script(path)
            elif (path / "__init__.py").exists() and path.name not in LIBRARIES:
                found[self.out / f"{path.name}.py"] = self._script(path / "__init__.py")
        return found

    # One file of many

    def _script(self, path: Path) -> list[Line]:
        entry = self._module(path)
        own_folder = path.parent if path.name == "__init__.py" else None
        modules = [self._module(each) for each in self._closure(path)]
        modules.sort(
            key=lambda each: own_folder is not None and self._is_below(each, own_folder)
        )  # stable: own ones last
        owners: dict[str, str] = {}
        for module in modules:
            for name, line in module.names.items():
                here = f"{module.label}:{line}"
                if name in owners:
                    raise BuildError(f"{name} is defined at {owners[name]} and at {here}, which meet in {entry.label}")
                owners[name] = here
        lines = [
            *_made("# SPDX-License-Identifier: AGPL-3.0-or-later"),
            *_made(
                f"# Built by `make build` from {entry.label}: edit that, never this file. What it shares with other scripts"
            ),
            *_made(
                "# comes first, its own last. `python3 src/build.py --where FILE:LINE` tells where a line comes from."
            ),
            *_made(f'"""{entry.docstring}"""', "", "from __future__ import annotations", ""),
        ]
        imports = {text: comment for module in modules for text, comment in module.imports.items()}
        for module in modules:
            imports.update(
                {text: comment for text, comment in module.imports.items() if len(comment) > len(imports[text])}
            )
        for text, _ in entry.preamble:  # what an entry tries to import is imported nowhere else
            imports.pop(text.strip(), None)
        last = "import orthanc" if "import orthanc" in imports else ""
        imports.pop("import orthanc", None)
        lines += _made(*_import_lines(imports))
        if entry.preamble:
            lines += [*_made(""), *entry.preamble]
        if last:
            lines += _made("", last)
        for module in modules:
            first = module.docstring.splitlines()[0] if module is not entry and module.docstring else ""
            heading = f"# ---- {module.label}" + (f": {first}" if first else "")
            lines += [*_made("", "", heading, "", ""), *module.body]
        return lines

    def _is_below(self, module: Module, folder: Path) -> bool:
        return module.label.startswith(folder.relative_to(self.out).as_posix() + "/")

    def _closure(self, path: Path) -> list[Path]:
        """Return a module and what it imports of `src/`, each after all that it imports itself.

        Raises
        ------
        BuildError : modules import each other in a circle.
        """
        found: list[Path] = []
        under_way: list[Path] = []

        def add(each: Path) -> None:
            if each in found:
                return
            if each in under_way:
                circle = " -> ".join(self._label(one) for one in (*under_way[under_way.index(each) :], each))
                raise BuildError(f"these import each other: {circle}")
            under_way.append(each)
            for other in self._module(each).needs:
                add(other)
            under_way.pop()
            found.append(each)

        add(path)
        return found

    # A package

    def _package(self, folder: Path) -> dict[Path, list[Line]]:
        """Return the files of a package: its own with `from common.x import …` made relative, and `_common/`."""
        own = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
        target = self.out / folder.name
        found = {}
        shared: dict[Path, None] = {}
        for path in own:
            found[target / path.relative_to(folder)] = self._relative(path, len(path.relative_to(folder).parts))
            if path.suffix == ".py":
                for need in self._module(path).needs:
                    if folder not in need.parents:
                        shared.update(dict.fromkeys(self._closure(need)))
        for path in sorted(shared):
            if path.parent != self.src / "common":
                raise BuildError(
                    f"{self._label(folder)} imports {self._label(path)}: a package may import src/common/ only"
                )
            found[target / "_common" / path.name] = self._relative(path, 0)
        note = (
            f'"""What {folder.name} shares with other scripts: built by `make build` from src/common/, never edited."""'
        )
        found[target / "_common" / "__init__.py"] = _made("# SPDX-License-Identifier: AGPL-3.0-or-later", note)
        return found

    def _relative(self, path: Path, depth: int) -> list[Line]:
        """Return the lines of a file of a package `depth` folders below its top (0: in `_common/` itself)."""
        prefix = "." * depth + "_common." if depth else "."
        lines = []
        for number, text in enumerate(path.read_text().splitlines(), start=1):
            if path.suffix == ".py" and text.lstrip().startswith("from common."):
                text = text.replace("from common.", f"from {prefix}", 1)
            lines.append((text, f"{self._label(path)}:{number}"))
            if number == 1 and path.suffix == ".py":
                lines += _made(f"# Built by `make build` from {self._label(path)}: edit that, never this file.")
        return lines

    # One module

    def _label(self, path: Path) -> str:
        return path.relative_to(self.out).as_posix()

    def _module(self, path: Path) -> Module:
        if path not in self._modules:
            self._modules[path] = self._read(path)
        return self._modules[path]

    def _read(self, path: Path) -> Module:
        label, text = self._label(path), path.read_text()
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
        self._refuse_hidden_imports(path, tree)
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

    def _refuse_hidden_imports(self, path: Path, tree: ast.Module) -> None:
        """Raise BuildError where a function imports from `src/`; a package, which is copied, may."""
        if path.relative_to(self.src).parts[0] in PACKAGES:
            return
        for top in tree.body:
            for node in ast.walk(top):
                if (
                    node is not top
                    and isinstance(node, ast.ImportFrom)
                    and not _is_for_types(top)
                    and self._source(path, node)
                ):
                    where = f"{self._label(path)}:{node.lineno}"
                    raise BuildError(f"{where}: import what lies in src/ at the top of the module")

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
                raise BuildError(f"{self._label(path)}:{node.lineno}: write `from {taken[0]} import …`, with names")
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
        raise BuildError(f"{self._label(path)}:{node.lineno}: there is no {'.'.join(names)} in src/")

    def _embedded(self, path: Path, tree: ast.Module) -> dict[int, list[str]]:
        """Return what takes the place of each `NAME = embedded("FILE")`: the text of the file, by line."""
        found: dict[int, list[str]] = {}
        for node in tree.body:
            value = getattr(node, "value", None)
            if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "embedded"):
                continue
            if not (isinstance(node, ast.Assign) and len(value.args) == 1 and isinstance(value.args[0], ast.Constant)):
                raise BuildError(f'{self._label(path)}:{node.lineno}: write `NAME = embedded("FILE")`')
            file = path.parent / str(value.args[0].value)
            if not file.is_file():
                raise BuildError(f"{self._label(path)}:{node.lineno}: there is no {self._label(file)}")
            lines = file.read_text().splitlines(keepends=True)
            name = ast.unparse(node.targets[0])
            made = [f"    {line!r}" for line in lines] or ['    ""']
            found[node.lineno] = [f"{name} = (  # {self._label(file)}", *made, ")"]
            for line in range(node.lineno + 1, (node.end_lineno or 0) + 1):
                found[line] = []
        return found


def _made(*texts: str) -> list[Line]:
    return [(line, "") for text in texts for line in text.split("\n")]


def _lines_of(node: ast.stmt) -> range:
    return range(node.lineno - 1, node.end_lineno or 0)


def _is_for_types(node: ast.stmt) -> bool:
    """Whether it is `if TYPE_CHECKING:`, which is for mypy alone."""
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


def _import_lines(imports: Mapping[str, str]) -> Iterator[str]:
    """Yield imports as a person writes them: `import a` first, then one `from a import b, c` a module."""
    yield from (text + imports[text] for text in sorted(text for text in imports if text.startswith("import ")))
    names: dict[str, set[str]] = {}
    for text in imports:
        if text.startswith("from "):
            _, module, _, name = text.split(" ", 3)
            names.setdefault(module, set()).add(name)
    for module, found in sorted(names.items()):
        line = f"from {module} import {', '.join(sorted(found))}"
        if len(line) <= LINE_LENGTH:
            yield line
        else:
            yield from (f"from {module} import (", *(f"    {name}," for name in sorted(found)), ")")


def where(builder: Builder, built_line: str) -> str:
    """Return the FILE:LINE of `src/` that a line of a built file comes from.

    Raises
    ------
    BuildError : there is no such file or line.
    """
    name, _, number = built_line.rpartition(":")
    built = {path.relative_to(builder.out).as_posix(): lines for path, lines in builder.built().items()}
    matching = [file for file in built if name == file or name.endswith("/" + file)]
    if not matching or not number.isdigit() or not 0 < int(number) <= len(built[max(matching, key=len)]):
        raise BuildError(f"{built_line} is no line of a built file; they are {', '.join(built)}")
    return built[max(matching, key=len)][int(number) - 1][1] or "src/build.py wrote this line"


def main(arguments: list[str]) -> int:
    """Run as a program; return the exit status."""
    builder = Builder(Path(__file__).resolve().parent)
    try:
        if arguments[:1] == ["--where"] and len(arguments) == 2:
            print(where(builder, arguments[1]))
            return 0
        if arguments not in ([], ["--check"]):
            print(__doc__, file=sys.stderr)
            return 2
        built = builder.built()
    except (BuildError, SyntaxError) as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    stale = []
    for path, lines in built.items():
        text = "".join(f"{line}\n" for line, _ in lines)
        if not path.exists() or path.read_text() != text:
            stale.append(path)
            if not arguments:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    left = [
        path
        for package in PACKAGES
        for path in sorted((builder.out / package).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and path not in built
    ]
    for path in left:
        if not arguments:
            path.unlink()
    names = ", ".join(path.relative_to(builder.out).as_posix() for path in (*stale, *left))
    if arguments and names:
        print(f"build: not what src/ gives: {names}. Run `make build`; edit src/, never these", file=sys.stderr)
        return 1
    print(f"build: {'wrote' if names else 'nothing to write'}{' ' if names else ''}{names}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
