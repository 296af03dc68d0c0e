# SPDX-License-Identifier: AGPL-3.0-or-later
"""The scripts as they were given, with what they import from their own folder."""

from __future__ import annotations

import ast
import functools
import importlib.machinery
import itertools
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

MARK = "# Made by combine.py"


class CombineError(Exception):
    """What is wrong with what combine.py was given, in one line."""


@dataclass
class Source:
    """A script as it was given, with all that it needs from its own folder."""

    path: Path
    name: str
    files: dict[str, bytes]
    trees: dict[str, ast.Module]
    module: str = ""
    folder: str = ""
    aliases: dict[str, str] = field(default_factory=dict)
    helpers: list[str] = field(default_factory=list)
    borrowed: dict[str, Source] = field(default_factory=dict)
    imports_itself: bool = False
    outside: set[str] = field(default_factory=set)
    read_from: set[Path] = field(default_factory=set)

    @property
    def package(self) -> bool:
        return self.path.is_dir()

    @property
    def main(self) -> str:
        """The file that is the script itself."""
        return f"{self.name}/__init__.py" if self.package else self.path.name


def parse(data: bytes, name: str) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the script's own affair, logged when it loads
            tree = ast.parse(data, name)
            compile(tree, name, "exec", dont_inherit=True)
            return tree
    except SyntaxError as error:
        raise CombineError(f"{name}, line {error.lineno or 1}: {error.msg}") from None
    except ValueError as error:
        raise CombineError(f"{name} is no Python text: {error}") from None


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CombineError(f"{path} can't be read: {error.strerror}") from None


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files of a package, sorted; caches, hidden files and what Git keeps are none of it."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == "__pycache__" or path.suffix in (".pyc", ".pyo"):
            continue
        if path.is_dir():
            yield from walk(path)
        elif path.suffix in (".so", ".pyd"):
            raise CombineError(f"{path} is compiled code, which can't be embedded")
        else:
            yield path


def read_source(path: Path) -> Source:
    if path.name == "__init__.py":  # how a package is named to the plugin
        path = path.resolve().parent
    if path.is_dir():
        if not (path / "__init__.py").is_file():
            raise CombineError(f"{path} is a folder without __init__.py, so no package")
        source = Source(path, path.resolve().name, {}, {})
        add_files(source, path, source.name)
    else:
        if path.suffix.lower() != ".py":
            raise CombineError(f"{path} is no script: its name must end with .py")
        source = Source(path, path.stem, {}, {})
        add_files(source, path, path.name)
        if source.files[path.name].startswith(MARK.encode()):
            raise CombineError(f"{path} is a combined file: name its scripts (--extract gives them back)")
    if source.name == "orthanc" or "." in source.name:
        raise CombineError(f"{path}: Orthanc can't load a script of this name (no dot in it, and not orthanc.py)")
    return source


def add_files(source: Source, path: Path, name: str) -> None:
    """Take the file `path`, or all files of the folder `path`, into `source` under `name`."""
    for file in walk(path) if path.is_dir() else [path]:
        inner = f"{name}/{file.relative_to(path).as_posix()}" if path.is_dir() else name
        if not inner.isprintable():
            raise CombineError(f"{inner!r}: no control characters in names")
        source.files[inner] = read(file)
        source.read_from.add(file.resolve())
        if inner.lower().endswith(".py"):
            source.trees[inner] = parse(source.files[inner], str(file))


@functools.cache
def nodes_of(tree: ast.Module) -> tuple[ast.AST, ...]:
    """Return all nodes of a tree. Each tree is walked once: all scripts have half a million nodes, and twenty questions."""
    return tuple(ast.walk(tree))


def imported(trees: Iterable[ast.Module]) -> set[str]:
    """Collect the dotted names that are imported, at the top, lazily, or by `import_module` with a constant."""
    return set[str]().union(*map(_imported, trees))


@functools.cache
def _imported(tree: ast.Module) -> frozenset[str]:
    names: set[str] = set()
    for node in nodes_of(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            function, first = node.func, node.args[0]
            called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                names.add(str(first.value))
    return frozenset(names)


def bundle(source: Source, given: dict[Path, Source], embed: bool) -> None:
    """Take what `source` imports from its own folder, and what that imports; the rest is `outside`."""
    folders = [source.path, source.path.resolve().parent] if source.package else [source.path.resolve().parent]
    done = {"orthanc"}
    while todo := sorted({name.partition(".")[0] for name in imported(source.trees.values())} - done):
        names = imported(source.trees.values())
        for top in todo:
            done.add(top)
            places = (locate(folder, top, names, source) for folder in folders)
            found = next((place for place in places if place is not None), None)
            if top == source.name:
                source.imports_itself = not source.package
            elif found is not None and found.resolve() in given:
                source.borrowed[top] = given[found.resolve()]
            elif found is not None and embed:
                source.helpers.append(found.name)
                add_files(source, found, found.name)
            else:
                source.outside.add(top)


def locate(folder: Path, top: str, names: set[str], source: Source) -> Path | None:
    """Find the module `top` in `folder` as Python would; built-in and frozen modules come before any folder."""
    if top in sys.builtin_module_names or importlib.machinery.FrozenImporter.find_spec(top):
        return None
    if source.package and folder == source.path and top in sys.stdlib_module_names:
        return None
    if (folder / top / "__init__.py").is_file():
        return folder / top
    if (folder / f"{top}.py").is_file():
        return folder / f"{top}.py"
    inner = (folder.joinpath(*name.split(".")) for name in names if name.startswith(f"{top}."))
    if any(path.with_suffix(".py").is_file() or (path / "__init__.py").is_file() for path in inner):
        return folder / top
    return None


def borrow(sources: list[Source]) -> None:
    """Let `import dicom_events` of one script be the package that is given too, wherever the two lie.

    A script may bear the name of a library, which the others mean: one that is installed here, or that it imports itself
    (`pydicom.py` does `import pydicom`).
    """
    installed = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    by_name = {
        source.name: source
        for source in reversed(sources)
        if source.package
        or not (source.imports_itself or importlib.machinery.PathFinder.find_spec(source.name, installed))
    }
    for source in sources:
        for top in source.outside & by_name.keys() - sys.stdlib_module_names:
            source.outside.remove(top)
            source.borrowed[top] = by_name[top]


def name_modules(sources: list[Source], allow_conflict: bool) -> None:
    """Give each module a name that no other has, scripts before what they import, in the order given."""
    borrow(sources)
    library = frozenset(sys.stdlib_module_names).union({"orthanc"}, *(source.outside for source in sources))
    taken: dict[str, Source | None] = dict.fromkeys(library)

    def unique(name: str, source: Source) -> str:
        free = next(one for n in itertools.count(1) if (one := f"{name}_{n}" if n > 1 else name) not in taken)
        taken[free] = source
        return free

    for source in sources:
        twin = taken.get(source.name)
        if twin and twin.package and source.package and not allow_conflict:
            raise CombineError(f"{twin.path} and {source.path} are two packages of one name")
        source.module = unique(source.name, source)
        if source.name not in library:
            source.aliases[source.name] = source.module
    for source in sources:
        source.aliases |= {top: other.module for top, other in source.borrowed.items()}
        source.aliases |= {module_name(top): unique(module_name(top), source) for top in source.helpers}
        source.aliases = {top: module for top, module in source.aliases.items() if top != module}


def module_name(file: str) -> str:
    return file[:-3] if file.lower().endswith(".py") else file


def place(sources: list[Source], allow_conflict: bool) -> None:
    """Give a script whose file names are taken a folder of its own in the combined file."""
    files: dict[str, tuple[Source, bytes]] = {}
    for source in sources:
        for name, data in source.files.items():
            other, content = files.get(name, (source, data))
            if other is source:
                continue
            if data != content and name != source.main and name != other.main and not allow_conflict:
                raise CombineError(f"{other.path} and {source.path} import different files named {name}")
            if data != content or name in (source.main, other.main):
                source.folder = f"{source.module}/"
        for name, data in source.files.items():
            files.setdefault(source.folder + name, (source, data))
