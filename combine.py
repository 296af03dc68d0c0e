#!/usr/bin/env python3
# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/combine/__init__.py: edit that, never this file. What it shares with other scripts
# comes first, its own last. `python3 src/build.py --where FILE:LINE` tells where a line comes from.
"""Make one Orthanc script of many: ``python3 combine.py A.py B.py dicom_events -o combined.py``.

Orthanc's Python plugin loads one script and grants one callback of each kind; a second registration ends the
server. The combined file embeds each script unchanged, loads each as the module that it is alone, and hands
every event to each script that asked for it. It works on scripts that know nothing of it. The scripts come back
byte for byte with ``--extract``. ``docs/combine.md`` gives the rules and what differs from running alone.

It needs Python 3.11 or newer and nothing else; copy this one file wherever it is wanted.
"""

from __future__ import annotations

import argparse
import ast
import base64
import builtins
import difflib
import functools
import gc
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import io
import itertools
import json
import linecache
import os
import pprint
import re
import shlex
import sys
import threading
import time
import tokenize
import traceback
import urllib.parse
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, ModuleType, SimpleNamespace
from typing import Any, TypeAlias, TypeVar


# ---- src/common/quirks.py: What a version of Orthanc, of its plugin or of Python needs and others don't: each with the version and the reason.


KEPT_ALIVE: list[Any] = []  # what Orthanc calls (`kept_alive`)
KeptT = TypeVar("KeptT", bound=Callable[..., Any])
# Whether values of a GET arrive percent-decoded depends on the web server that Orthanc was built with (Debian 12's and
# 13's hand them over raw, forky's decoded), not on a version that could be asked for. So a route asks itself, once.
PROBE = "arrives-decoded"  # a parameter that only we send
ARRIVAL: list[bool] = []  # whether they arrive decoded, when it is known


def kept_alive(callback: KeptT) -> KeptT:
    """Return what Orthanc is to call, and keep it as long as the process lives: 1.12.7 and later crash at shutdown otherwise.

    Register what this returns: a method is another object each time that it is named.
    """
    KEPT_ALIVE.append(callback)
    return callback


def import_for_small_stacks() -> None:
    """Import what http.client imports at its first connection, for which the stack of Orthanc's HTTP threads is too small.

    Python 3.14 needs more than the 100 KB of such a thread to import it.
    """
    import encodings.idna  # noqa: F401


def answer_probe(output: Any, query: Mapping[str, str | None]) -> bool:
    """Answer how the value of `PROBE` has arrived, if that is what a GET asks; return whether it was."""
    if query.keys() != {PROBE}:
        return False
    output.AnswerBuffer(b"A" if query[PROBE] == "A" else b"%41", "text/plain")
    return True


def values_arrive_decoded(uri: str, get: Callable[[str], Any]) -> bool:
    """Return whether values of a GET arrive percent-decoded; ask one of our routes with `get` if it is not known yet."""
    if not ARRIVAL:
        ARRIVAL.append(get(f"{urllib.parse.quote(uri)}?{PROBE}=%41") == b"A")
    return ARRIVAL[0]


def send_status(output: Any, status: int, body: str) -> None:
    """Send a status with a body of JSON: plugin 4.0 and 4.1 want its length in bytes as a third argument."""
    try:
        output.SendHttpStatus(status, body)  # from plugin 4.2, which adds a Content-Type by itself
    except TypeError:
        output.SetHttpHeader("Content-Type", "application/json")
        output.SendHttpStatus(status, body, len(body.encode()))


def folder_on_command_line(parent: Path) -> Path | None:
    """Return the folder in `parent` that the command line of this process names, if it names one.

    Where the configuration is a folder given without a slash at its end, `GetConfigurationPath()` is its parent (1.10.1 and
    later). Only Linux has `/proc`: elsewhere there is no folder to find.
    """
    try:
        words = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    folders = (Path(os.fsdecode(word)) for word in words if word)
    return next((each.absolute() for each in folders if each.is_dir() and each.absolute().parent == parent), None)


# ---- src/common/environment.py: Values of the configuration that come from environment variables: from which, and whether those are set.


VARIABLE = re.compile(r"\$\{([^:{}]*)(?::-([^{}]*))?\}")
QUOTED_DEFAULT = re.compile(
    r"""\$\{([^:{}]*):-(?:"([^"]*)"|'([^']*)')\}"""
)  # Orthanc takes ${NAME:-"x"} for ${NAME:-x}
TEXT_OR_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)  # or a text, which is left as it is
# A text, a variable outside of texts (of a number, say), or a comma that ends a list: no JSON, but Orthanc takes them.
LOOSE = re.compile(rf'"(?:\\.|[^"\\])*"|{VARIABLE.pattern}|,(?=\s*[}}\]])')
NUMBER_AS_TEXT = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")


class FromEnvironment(str):
    """A text of the configuration in which Orthanc has put environment variables.

    Attributes
    ----------
    names : of the variables.
    unset : those of them that are not set and have no default.
    """

    names: tuple[str, ...]
    unset: tuple[str, ...]

    def __new__(cls, text: str, names: tuple[str, ...], unset: tuple[str, ...] = ()) -> "FromEnvironment":
        """Return a text that knows its variables."""
        made = super().__new__(cls, text)
        made.names, made.unset = names, unset
        return made

    @property
    def value(self) -> Any:
        """The number, true or false that it is as JSON, else the plain text: Orthanc has made texts of all."""
        text = str(self)
        return json.loads(text) if text in ("true", "false") or NUMBER_AS_TEXT.fullmatch(text) else text

    @property
    def variables(self) -> str:
        """What a line of the log calls them: those that are not set, if there are any."""
        names = self.unset or self.names
        return f"the environment variable{'s' if len(names) > 1 else ''} {', '.join(names)}"


def with_variables(section: str, found: Any) -> Any:
    """Return a section with a `FromEnvironment` for each text that came from variables, as Orthanc's files have it.

    Where the files can't be read as they were when Orthanc started, texts stay as they are.
    """
    return found if found is None else marked(found, _written_now().get(section))


def marked(found: Any, written: Any) -> Any:
    """Return what Orthanc has read with a `FromEnvironment` for each text for which variables were written."""
    if isinstance(found, dict) and isinstance(written, dict):
        return {key: marked(each, written.get(key)) for key, each in found.items()}
    if isinstance(found, list) and isinstance(written, list) and len(found) == len(written):
        return [marked(each, one) for each, one in zip(found, written, strict=True)]
    if type(found) is str and isinstance(written, str) and _with_values(written) == found:
        variables = [*VARIABLE.finditer(written)]
        names = tuple(dict.fromkeys(each[1] for each in variables))
        unset = {each[1] for each in variables if each[2] is None and each[1] not in os.environ}
        return FromEnvironment(found, names, tuple(name for name in names if name in unset)) if names else found
    return found


def as_written(text: str) -> Mapping[str, Any]:
    """Return a file of the configuration as it is written, with the variables in its texts; nothing if it can't be read so."""
    text = QUOTED_DEFAULT.sub(lambda match: f"${{{match[1]}:-{match[2] or match[3] or ''}}}", text)
    text = TEXT_OR_COMMENT.sub(lambda match: match[0] if match[0][0] == '"' else " ", text)
    try:
        found = json.loads(LOOSE.sub(_as_json, text))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _with_values(written: str) -> str:
    return VARIABLE.sub(lambda match: os.environ.get(match[1], match[2] or ""), written)


def _as_json(match: re.Match[str]) -> str:
    return {'"': match[0], "$": "null", ",": ""}[match[0][0]]


def _written_now() -> Mapping[str, Any]:
    whole: dict[str, Any] = {}
    try:
        import orthanc

        base = Path(orthanc.GetConfigurationPath()).absolute()
        paths = [base]
        if not base.is_file():
            folder = folder_on_command_line(base) or base
            paths = [path for path in folder.iterdir() if path.suffix.lower() == ".json"]
        for path in paths:
            whole.update(as_written(path.read_text(encoding="utf-8-sig")))
    except Exception:  # noqa: BLE001 - no Orthanc at all (a program, a test), or its files are gone: what it has read holds
        return {}
    return whole


# ---- src/common/version.py: The version of the collection, the same for all scripts; it is written here and nowhere else.


__version__ = "0.2.0"


# ---- src/combine/sources.py: The scripts as they were given, with what they import from their own folder.


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


# ---- src/combine/texts.py: Works out the texts that a script has written down, such as its routes, without running it.


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


# ---- src/combine/configuration.py: Checks Orthanc's configuration against what the scripts read.


PRIVATE_TAGS = "SeriesMainPrivateDicomTags"
JSON_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "None": (type(None),),
    "list": (list,),
    "tuple": (list,),
    "dict": (dict,),
}


CONFIGURATION_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


def read_configuration(path: Path) -> dict[str, Any]:
    """Read Orthanc's configuration as Orthanc does: comments, ${VARIABLES}, and folders of files."""
    whole: dict[str, Any] = {}
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        text = re.sub(
            CONFIGURATION_TOKEN,
            lambda m: m[0] if m[0][0] == '"' else blank(m),
            read(file).decode("utf-8-sig", "replace"),
        )
        try:
            part = json.loads(re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", variable, text))
            part = marked(part, as_written(text))
        except json.JSONDecodeError as error:
            raise CombineError(f"{file}, line {error.lineno}: {error.msg}") from None
        for key, value in part.items() if isinstance(part, dict) else ():
            if key in whole:
                raise CombineError(f"{file}: {key} stands in another file of {path} too, which Orthanc refuses")
            whole[key] = value
    return whole


def blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


def variable(match: re.Match[str]) -> str:
    return os.environ.get(match[1], match[2] or "")


def check_configuration(path: Path, sources: list[Source], output: Path | None) -> Iterator[str]:
    """Say what is wrong or missing in a configuration, with the line to add; `output` is the combined file, if one is made."""
    configuration = read_configuration(path)
    python = configuration.get("Python")
    script = configuration.get("PythonScript", python.get("Path") if isinstance(python, dict) else None)
    if not isinstance(script, str) or not script.lower().endswith(".py"):
        yield 'PythonScript is missing; add: "PythonScript": "/etc/orthanc/scripts/combined.py"'
    else:
        yield from check_script(path, script, sources, output)
    yield from check_metadata(configuration.get("UserMetadata", {}), sources)
    yield from check_section_of_all(configuration, sources)
    for source in sources:
        classes = classes_of(source)
        for tree in source.trees.values():
            section = constant(assigned(tree).get("SECTION", tree), {})
            yield from check_section_name(configuration, section)
            if section in configuration and section != PRIVATE_TAGS and "Settings" in classes:
                yield from check_object(section, configuration[section], classes["Settings"], classes)
            if any(isinstance(node, ast.Constant) and node.value == PRIVATE_TAGS for node in ast.walk(tree)):
                yield from check_dictionary(configuration)


def classes_of(source: Source) -> dict[str, ast.ClassDef]:
    """Return the classes of a script, by name."""
    return {node.name: node for tree in source.trees.values() for node in tree.body if isinstance(node, ast.ClassDef)}


def check_section_name(configuration: Mapping[str, Any], section: str | None) -> Iterator[str]:
    for other in configuration if section else ():
        if other != section and difflib.SequenceMatcher(None, other.lower(), str(section).lower()).ratio() > 0.85:
            yield f"{other} is no section; did you mean {section}?"


def check_section_of_all(configuration: Mapping[str, Any], sources: list[Source]) -> Iterator[str]:
    """Check the section `Scripts` once, if one of ours is there, which all read it (`src/common/settings.py`)."""
    for classes in map(classes_of, sources):
        if "ScriptsSettings" in classes:
            yield from check_section_name(configuration, "Scripts")
            found = configuration.get("Scripts", {})
            yield from check_object("Scripts", found, classes["ScriptsSettings"], classes)
            return


def check_script(path: Path, script: str, sources: list[Source], output: Path | None) -> Iterator[str]:
    """Check that Orthanc loads the combined file. The configuration may be another machine's: only names can be compared then."""
    found = Path(script)
    here = (path if path.is_dir() else path.parent) / found  # an absolute one is itself
    if output and (found.name != output.name or (here.exists() and here.resolve() != output.resolve())):
        yield f"PythonScript is {script}, not {output}"
    elif not output and len(sources) > 1 and here.is_file() and not read(here).startswith(MARK.encode()):
        yield f"PythonScript is {script}, which is no combined file"


def check_metadata(metadata: Any, sources: list[Source]) -> Iterator[str]:
    """Check numbers of UserMetadata, and that the names are there which a script lists in USER_METADATA."""
    if not isinstance(metadata, dict):
        yield "UserMetadata must be an object of names and numbers"
        return
    names: dict[int, str] = {}
    for name, number in metadata.items():
        value = number[0] if isinstance(number, list) and number else number  # [number, MIME type]
        if type(value) is not int or not 1024 <= value <= 65535:
            yield f"UserMetadata: {name} must be a number from 1024 to 65535"
        elif value in names:
            yield f"UserMetadata: {name} and {names[value]} have the number {value} both"
        else:
            names[value] = name
    for source in sources:
        for name, number in (one for tree in source.trees.values() for one in wanted_metadata(tree)):
            if name not in metadata:
                free = next(n for n in itertools.count(number) if n not in names)
                names[free] = name
                yield f'{source.main} wants a name in UserMetadata; add: "UserMetadata": {{"{name}": {free}}}'


def wanted_metadata(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Find the names of UserMetadata that a script asks for by `user_number(configuration, "UserMetadata", name, number)`."""
    names = assigned(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "user_number" and len(node.args) == 4:
            section, name = (constant(argument, names) for argument in node.args[1:3])
            number = names.get(ast.unparse(node.args[3]), node.args[3])
            if section == "UserMetadata" and name and isinstance(number, ast.Constant) and type(number.value) is int:
                yield name, number.value


def check_dictionary(configuration: dict[str, Any]) -> Iterator[str]:
    """Check that private tags which are listed by name have an entry in Dictionary, which gives their number and VR."""
    entries, listed = configuration.get("Dictionary", {}), configuration.get(PRIVATE_TAGS, [])
    known = [entry[1:2] for entry in entries.values() if isinstance(entry, list)] if isinstance(entries, dict) else []
    for name in listed if isinstance(listed, list) else []:
        name = str(name).removeprefix("!!")
        if not re.match("[0-9a-fA-F]{4}[,-]?[0-9a-fA-F]{4}", name) and [name] not in known:
            line = f'"Dictionary": {{"gggg,eeee": ["LO", "{name}", 1, 1, "CREATOR"]}}'
            yield f"{PRIVATE_TAGS}: {name} is not in Dictionary; add: {line}"


def check_object(path: str, found: Any, wanted: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    """Check an object of the configuration against a dataclass: the keys it has, and the plainest of their types."""
    if not isinstance(found, dict):
        yield f"{path} must be an object of keys and values"
        return
    fields, removed = fields_of(wanted, classes), removed_keys(wanted, classes)
    for key, value in found.items():
        if key in removed:
            yield f"{path}.{key} is gone: {removed[key]}"
        elif key not in fields:
            near = difflib.get_close_matches(key.lower(), [name.lower() for name in fields], 1, 0.6)
            meant = [f"did you mean {name}?" for name in fields if [name.lower()] == near]
            yield f"{path} has no key {key}; " + (meant[0] if meant else f"known are {', '.join(fields)}")
        else:
            yield from check_value(f"{path}.{key}", value, fields[key], classes)


def lineage(wanted: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    """Yield the classes that a class is made from, and then itself."""
    for base in wanted.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            yield from lineage(classes[base.id], classes)
    yield wanted


def fields_of(wanted: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> dict[str, ast.expr]:
    """Return the keys of a dataclass with their annotations."""
    nodes = [node for each in lineage(wanted, classes) for node in each.body if isinstance(node, ast.AnnAssign)]
    return {key_of(node): node.annotation for node in nodes if not ast.unparse(node.annotation).startswith("ClassVar")}


def removed_keys(wanted: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> dict[str, str]:
    """Return the keys that a dataclass had once, each with what happens now: a class variable `REMOVED`, an object of texts."""
    found = [assigned(each).get("REMOVED") for each in lineage(wanted, classes)]
    return {key: now for node in found if isinstance(node, ast.Dict) for key, now in ast.literal_eval(node).items()}


def key_of(node: ast.AnnAssign) -> str:
    """Tell a field's key: `max_per_destination` is MaxPerDestination, unless its metadata name another."""
    keywords = node.value.keywords if isinstance(node.value, ast.Call) else []
    for keyword in keywords:
        if keyword.arg == "metadata" and isinstance(keyword.value, ast.Dict):
            for key, value in zip(keyword.value.keys, keyword.value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "key" and isinstance(value, ast.Constant):
                    return str(value.value)
    return "".join(word.capitalize() for word in ast.unparse(node.target).split("_"))


def check_value(path: str, found: Any, annotation: ast.expr, classes: dict[str, ast.ClassDef]) -> Iterator[str]:
    options = ast.unparse(annotation).split(" | ")
    outer = [option.partition("[")[0] for option in options]
    inner = [word for option in options for word in re.findall(r"\w+", option)[1:] if word in classes]
    if isinstance(found, FromEnvironment):  # a number or true, where that is wanted
        found = str(found) if "str" in outer else found.value
    if isinstance(found, dict) and (names := [name for name in outer if name in classes]):
        yield from check_object(path, found, classes[names[0]], classes)
    elif isinstance(found, list) and inner:
        for number, item in enumerate(found):
            yield from check_object(f"{path}[{number}]", item, classes[inner[0]], classes)
    elif all(name in JSON_TYPES for name in outer) and not any(type(found) in JSON_TYPES[name] for name in outer):
        yield f"{path} must be {' or '.join(outer)}, not {type(found).__name__}"


# ---- src/combine/imports.py: Which imports of the scripts can't be found.


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


# ---- src/combine/runtime/files.py: The files that a combined file holds as comments.


NEWLINES = {"lf": "\n", "crlf": "\r\n"}


def unpack(text: str) -> dict[str, bytes]:
    """Read the files that a combined file holds, by SHA-256; what was edited there is refused."""
    files = {}
    for block in ("\n" + text).split("\n#= ")[1:]:
        head, *lines = block.rstrip("\n").split("\n")
        digest, form, newline, name = head.split(" ", 3)
        body = "\n".join(line[3:] for line in lines)
        data = base64.b64decode(body) if form == "base64" else body.replace("\n", NEWLINES[newline]).encode(form)
        if hashlib.sha256(data).hexdigest() != digest:
            raise ValueError(f"{name} was edited inside the combined file: edit the script itself and combine again")
        files[digest] = data
    return files


# ---- src/combine/reading.py: Looks into a combined file: lists, verifies, extracts.


def open_combined(path: Path) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Read what a combined file holds, without running it: its entries, and its files by their names there."""
    text = read(path).decode("utf-8", "replace").replace("\r\n", "\n")
    if not text.startswith(MARK):
        raise CombineError(f"{path} was not made by combine.py")
    try:
        found = [node for node in ast.parse(text).body if getattr(getattr(node, "target", 0), "id", "") == "SCRIPTS"]
        entries: list[dict[str, Any]] = ast.literal_eval(found[0].value)  # type: ignore[attr-defined]
        contents = unpack(text)
        files = {name: contents[digest] for entry in entries for name, digest in entry["files"].items()}
    except (SyntaxError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CombineError(f"{path} is damaged: {error}") from None
    if unsafe := [name for name in files if {"..", ""} & set(name.split("/")) or "\\" in name or ":" in name]:
        raise CombineError(f"{path} holds a file that would leave the folder: {unsafe[0]}")
    return entries, files


def show(path: Path) -> int:
    for entry in open_combined(path)[0]:
        print(f"{entry['file']:<30} {entry['version'] or '-':<9} {entry['sha256']}")
        for name, digest in entry["files"].items():
            if name != entry["file"]:
                print(f"    {name:<36} {digest}")
    return 0


def extract(path: Path, folder: Path) -> int:
    files = open_combined(path)[1]
    for name, data in files.items():
        if (folder / name).exists() and read(folder / name) != data:
            raise CombineError(f"{folder / name} is there with other content: it is left as it is")
    try:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    except OSError as error:
        raise CombineError(f"{folder} can't be written: {error.strerror}") from None
    return 0


def verify(path: Path, places: Sequence[Path]) -> int:
    """Compare with the scripts as they are: those named, else those beside the file, here, or beside combine.py."""
    entries, files = open_combined(path)
    roots = [path.resolve().parent, path.resolve().parent.parent, Path.cwd(), Path(__file__).resolve().parent]
    changes = []
    for entry in entries:
        own = {name.removeprefix(entry["folder"]): files[name] for name in entry["files"]}
        name = entry["file"].removeprefix(entry["folder"])
        candidates = [p for p in places if p.resolve().name == name] + [root / name for root in (*places, *roots)]
        found = [differences(candidate, own) for candidate in candidates if candidate.exists()]
        if not found:
            changes.append(f"{name}: not found; name it: --verify {path} PATH/{name}")
        elif [] not in found:
            changes += found[0]
    print("\n".join(changes) or "unchanged")
    return 1 if changes else 0


def differences(script: Path, files: dict[str, bytes]) -> list[str]:
    """Say which files of a script are not as they were; `files` by their names beside it."""
    base = script.resolve().parent
    now = {name: path for name in files for path in (base / name, script / name) if path.is_file()}
    new = (
        [f"{script.resolve().name}/{p.relative_to(script).as_posix()}" for p in walk(script)] if script.is_dir() else []
    )
    return (
        [f"{name}: changed" for name, path in now.items() if read(path) != files[name]]
        + [f"{name}: gone" for name in files if name not in now]
        + [f"{name}: new" for name in new if name not in files]
    )


# ---- src/combine/runtime/routes.py: What Orthanc grants once, and which routes take the same path.


# What Orthanc grants once and the runtime shares out, with the plugin's own words for it in its error messages.
SHARED = {
    "RegisterOnChangeCallback": "Python on-changes callback",
    "RegisterOnStoredInstanceCallback": "Python on-stored-instance callback",
    "RegisterIncomingHttpRequestFilter": "Python incoming-http-request filter",
    "RegisterIncomingCStoreInstanceFilter": "Python incoming CStore instance filter",
    "RegisterReceivedInstanceCallback": "Python received instance callback",
}


def single_owner(register: str) -> str:
    """Name what only one script can own: ``RegisterMoveCallback2`` and ``RegisterMoveCallback`` are one ``Move``."""
    return re.sub(r"^Register|(Callback)?\d*$", "", register)


def matches(pattern: str, path: str) -> bool:
    """Tell whether the route `pattern` takes `path`, as far as Python's regular expressions read it as Orthanc's do."""
    try:
        return re.fullmatch(pattern, path) is not None
    except re.error:
        return False


def example(pattern: str) -> str:
    """Write a path that the route `pattern` takes, of the plain kind: groups, classes, repetitions."""

    def repeat(text: str, times: str | None) -> str:
        return text * int((re.findall(r"\d+", times or "") or ["1"])[0])

    path = re.sub(
        r"\[([^\]\\]+|\\.)+?\](\{[\d,]+\}|[*+?])?", lambda m: repeat("x" if m[0][1] == "^" else m[0][1], m[2]), pattern
    )
    path = re.sub(r"\\d", "1", re.sub(r"\\w|\.(?=[*+?])", "x", path))
    before = ""
    while path != before:
        before, path = (
            path,
            re.sub(r"\((?:\?:|\?P?<\w+>)?([^()|]*)[^()]*\)(\{[\d,]+\})?", lambda m: repeat(m[1], m[2]), path),
        )
    return re.sub(r"[*+?]|\\(.)", lambda m: m[1] or "", path).strip("^$")


def collide(first: str, second: str) -> bool:
    """Return whether two routes take one path: the same pattern, or the only path that one matches is the other's."""
    return first == second or any(
        matches(a, example(a)) and matches(b, example(a)) for a, b in ((first, second), (second, first))
    )


# ---- src/combine/registrations.py: What scripts register, and who registers what only one can have.


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


# ---- src/combine/runtime/script.py: A script of a combined file, and what it gave to Orthanc.


class Callback:
    """One callable that a script gave to Orthanc, with how often and how long it ran."""

    __slots__ = ("calls", "errors", "function", "kind", "script", "seconds")

    def __init__(self, script: Script, kind: str, function: Any) -> None:
        self.script, self.kind, self.function = script, kind, function
        self.calls = self.errors = 0
        self.seconds = 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return self.function(*args, **kwargs)
        except BaseException:
            self.errors += 1
            raise
        finally:
            self.calls += 1
            self.seconds += time.perf_counter() - start


@dataclass(eq=False)
class Script:
    """A script of the combined file: what combine.py wrote of it, and what becomes of it while Orthanc runs."""

    module: str
    file: str
    folder: str
    version: str | None
    sha256: str
    aliases: dict[str, str]
    modules: dict[str, str]
    files: dict[str, str]
    state: str = "waiting"
    error: str | None = None
    orthanc: ModuleType = field(default_factory=lambda: ModuleType("orthanc"))
    asked: set[str] = field(default_factory=set)
    callbacks: list[Callback] = field(default_factory=list)
    pending: list[Callable[[], object]] = field(default_factory=list)
    explorer: dict[tuple[str, ...], str] = field(default_factory=dict)
    entries: list[Callable[[], list[dict[str, Any]]]] = field(default_factory=list)

    def when_loaded(self, action: Callable[[], object]) -> None:
        """Do `action` once the script has loaded: one that fails to load leaves nothing behind in Orthanc."""
        if self.state == "loaded":
            action()
        else:
            self.pending.append(action)

    def add_entries(self, ask: Callable[[], list[dict[str, Any]]]) -> None:
        """Take from the script what answers for it in `/scripts` (`src/common/status.py`)."""
        self.when_loaded(lambda: self.entries.append(ask))

    def ask_once(self, name: str) -> None:
        """Refuse, as the plugin does, a second callback of a kind."""
        if name in self.asked:
            raise RuntimeError(f"Can only register one {SHARED.get(name, name)}")
        self.asked.add(name)

    def callback(self, kind: str, function: Any) -> Callback:
        """Count what `function` does from now on, and keep it as long as the process lives."""
        self.callbacks.append(Callback(self, kind, function))
        return self.callbacks[-1]


def share_connections() -> None:
    """Let ORTHANC_STOPPED, which comes on a thread of its own, close the SQLite connections that other events opened."""
    try:
        import sqlite3
    except ImportError:  # a Python without it
        return
    plain = sqlite3.connect

    @functools.wraps(plain)
    def connect(*args: Any, **options: Any) -> Any:
        if len(args) < 5:  # of which the fifth is check_same_thread
            options.setdefault("check_same_thread", False)
        return plain(*args, **options)

    vars(sqlite3)["connect"] = vars(sqlite3.dbapi2)["connect"] = connect


# ---- src/combine/runtime/log.py: What the runtime and the scripts write into Orthanc's log, and how an error is logged there.


def begins_with_name(text: str, name: str) -> bool:
    """Return whether a line of the log begins with the script's name, with `-` or `_`: it needs no other."""
    first = re.match(r"([\w-]+)[: ]", text)
    return first is not None and first[1].replace("-", "_") == name.replace("-", "_")


class Log:
    """Orthanc's log. `functions` are those of the real module `orthanc`, `owners` the scripts by the id of their globals."""

    def __init__(self, functions: Mapping[str, Any], owners: Mapping[int, Script]) -> None:
        self._functions, self._owners = functions, owners
        self.prefix = (
            True  # whether `[name]` is put before what a script logs, where its line does not begin with the name
        )

    def write(self, level: str, message: str) -> None:
        """Write a line of our own; what the plugin refuses in a text (NUL, half a surrogate) is spelled out."""
        self._functions[f"Log{level}"](message.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0"))

    def write_for(self, script: Script, name: str, args: tuple[Any, ...]) -> Any:
        """Write what a script logs by the function `name` of its `orthanc`."""
        if self.prefix and args and isinstance(args[0], str) and not begins_with_name(args[0], script.module):
            args = (f"[{script.module}] {args[0]}", *args[1:])
        return self._functions[name](*args)

    def trace(self, error: BaseException) -> str:
        """Format the traceback of `error` from the first line on that is a script's."""
        step = error.__traceback__
        while step is not None and id(step.tb_frame.f_globals) not in self._owners:
            step = step.tb_next
        return "".join(traceback.format_exception(type(error), error, step or error.__traceback__))

    def describe(self, error: BaseException) -> str:
        """Name an error and where it left the scripts' code; its message may hold secrets and stays in the log."""
        steps = traceback.walk_tb(error.__traceback__)
        places = [
            f" at {Path(frame.f_code.co_filename).name}, line {line}"
            for frame, line in steps
            if id(frame.f_globals) in self._owners
        ]
        return type(error).__name__ + "".join(places[-1:])

    def report(self, callback: Callback, error: BaseException) -> None:
        """Tell that a callback of a script raised `error`."""
        details = SHARED.get(callback.kind, callback.kind)
        self.write("Error", f"[{callback.script.module}] Error in the {details}, traceback:\n{self.trace(error)}")

    def guard(self, callback: Callback, *args: Any) -> None:
        """Call `callback`; what it raises is reported, and is nobody else's."""
        try:
            callback(*args)
        except BaseException as error:  # noqa: BLE001 (also a SystemExit)
            self.report(callback, error)


# ---- src/combine/runtime/dispatcher.py: Hands what Orthanc calls to each script that asked for it.


STOP_SECONDS = 5.0  # how long a script may keep Orthanc from stopping, as it is said in docs/combine.md


class Changes:
    """OnChange for all scripts, on the plugin's thread, as alone.

    Only ORTHANC_STOPPED comes on a thread of its own for each script, so that one that hangs can be left.
    """

    def __init__(self, stopped: int, log: Log) -> None:
        self.stopped, self.log = stopped, log
        self.callbacks: tuple[Callback, ...] = ()

    def __call__(self, *event: Any) -> None:
        for callback in self.callbacks:
            if event[0] == self.stopped:
                self.stop(callback, event)
            else:
                self.log.guard(callback, *event)

    def stop(self, callback: Callback, event: tuple[Any, ...]) -> None:
        thread = threading.Thread(target=self.log.guard, args=(callback, *event), name="OnChange", daemon=True)
        thread.start()
        thread.join(STOP_SECONDS)
        if thread.is_alive():
            self.log.write(
                "Error", f"Left {callback.script.module} in its OnChange after {STOP_SECONDS:g} s: Orthanc stops"
            )


class Dispatcher:
    """The callbacks that Orthanc grants once, shared out to the scripts that asked for them."""

    def __init__(self, real: Any, functions: Mapping[str, Any], log: Log) -> None:
        self.real, self.functions, self.log = real, functions, log
        self.shared: dict[str, tuple[Callback, ...]] = {}
        # The plugin lets go of callables without holding the GIL when it ends: the last reference must be here.
        self.kept: list[Any] = []
        self.changes = Changes(real.ChangeType.ORTHANC_STOPPED, log)

    def share(self, name: str, callback: Callback) -> None:
        """Add `callback` to those of its kind; Orthanc is asked for the kind when the first script wants it."""
        if name not in self.shared:
            function = {
                "RegisterOnChangeCallback": self.changes,
                "RegisterOnStoredInstanceCallback": self.on_stored_instance,
                "RegisterIncomingHttpRequestFilter": self.filter_request,
                "RegisterIncomingCStoreInstanceFilter": self.filter_instance,
                "RegisterReceivedInstanceCallback": self.on_received_instance,
            }[name]
            self.kept.append(function)
            self.functions[name](function)
        self.shared[name] = (*self.shared.get(name, ()), callback)
        self.changes.callbacks = self.shared.get("RegisterOnChangeCallback", ())

    def on_stored_instance(self, dicom: Any, instance: str) -> None:
        for callback in self.shared["RegisterOnStoredInstanceCallback"]:
            self.log.guard(callback, dicom, instance)

    def filter_request(self, uri: str, **request: Any) -> Any:
        """Ask every filter, as each alone would be; the first answer that does not allow is Orthanc's."""
        callbacks = self.shared["RegisterIncomingHttpRequestFilter"]

        def ask(callback: Callback) -> Any:
            return callback(uri, **{k: dict(v) if isinstance(v, dict) else v for k, v in request.items()})

        return self.first_refusal(callbacks, ask, lambda answer: answer is True)

    def filter_instance(self, dicom: Any) -> Any:
        """Ask every filter, as each alone would be; the first status that refuses is the sender's."""
        callbacks = self.shared["RegisterIncomingCStoreInstanceFilter"]
        return self.first_refusal(
            callbacks, lambda callback: callback(dicom), lambda answer: isinstance(answer, int) and answer == 0
        )

    def first_refusal(
        self, callbacks: Iterable[Callback], ask: Callable[[Callback], Any], allows: Callable[[Any], bool]
    ) -> Any:
        verdict: Any = None
        refused = False
        failure: BaseException | None = None
        for callback in callbacks:
            try:
                answer = ask(callback)
            except BaseException as error:  # noqa: BLE001 (who fails refuses, as alone)
                if refused:
                    self.log.report(callback, error)
                failure = failure or (None if refused else error)
                refused = True
            else:
                if not refused:
                    verdict, refused = answer, not allows(answer)
        if failure:
            raise failure
        return verdict

    def on_received_instance(self, dicom: bytes, origin: int) -> tuple[int, bytes | None]:
        """Hand on from script to script what the one before made of the instance; who discards it ends the chain."""
        action = self.real.ReceivedInstanceAction
        result: tuple[int, bytes | None] = (action.KEEP_AS_IS, None)
        for callback in self.shared["RegisterReceivedInstanceCallback"]:
            try:
                answer = callback(dicom, origin)
                if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], int):
                    raise TypeError("the callback must return an action and the DICOM file that it made, as a tuple")
                if answer[0] == action.DISCARD:
                    return answer[0], None
                if answer[0] != action.KEEP_AS_IS:
                    if not isinstance(answer[1], bytes):
                        raise TypeError(f"the DICOM file must be bytes, not {type(answer[1]).__name__}")
                    dicom, result = answer[1], answer
            except BaseException as error:  # noqa: BLE001 (kept as it is, as alone)
                self.log.report(callback, error)
        return result


# ---- src/combine/runtime/health.py: Speaks for all scripts of a combined file: `GET /scripts`, and `GET /scripts/health` for a probe.


class ScriptList:
    """What `/scripts` says: of a script that gave its own entries those, of another one what the runtime knows."""

    def __init__(self, scripts: list[Script], log: Log) -> None:
        self.scripts, self.log = scripts, log
        self.routes: dict[str, Callable[..., None]] = {
            "/scripts": self.answer_scripts,
            "/scripts/health": self.answer_health,
        }

    def entries(self) -> list[dict[str, Any]]:
        return [entry for script in self.scripts for entry in self.entries_of(script)]

    def entries_of(self, script: Script) -> list[dict[str, Any]]:
        try:
            if found := [entry for ask in script.entries for entry in ask()]:
                return found
        except Exception as error:  # noqa: BLE001 (one that can't say how it is never silences the others)
            return [known(script, f"it can't say how it is: {self.log.describe(error)}")]
        return [known(script, None if script.state == "loaded" else f"{script.state} to load: {script.error}")]

    def answer_scripts(self, output: Any, uri: str, **request: Any) -> None:
        """Answer `GET /scripts`."""
        if is_get(output, request):
            output.AnswerBuffer(json.dumps(self.entries(), indent=2) + "\n", "application/json")

    def answer_health(self, output: Any, uri: str, **request: Any) -> None:
        """Answer `GET /scripts/health`: 200, or 503 with the scripts that somebody has to look at."""
        if not is_get(output, request):
            return
        found = self.entries()
        unhealthy = [entry for entry in found if not entry["Healthy"]]
        fields = {"Healthy": not unhealthy, "Scripts": len(found), "Unhealthy": unhealthy}
        if not unhealthy:
            output.AnswerBuffer(json.dumps(fields, indent=2) + "\n", "application/json")
            return
        message = "; ".join(f"{entry['Name']}: {entry['Reason']}" for entry in unhealthy)
        error = {"HttpError": "Service Unavailable", "HttpStatus": 503, "Message": message, "Method": "GET", "Uri": uri}
        send_503(output, json.dumps({**fields, **error}, indent=2) + "\n")


def known(script: Script, reason: str | None) -> dict[str, Any]:
    """Return the entry of a script of which the runtime knows no more than whether it has loaded."""
    return {
        "Name": script.module,
        "State": "idle" if reason else "running",
        "Reason": reason,
        "Version": script.version,
        "Healthy": reason is None,
        "Routes": None,
        "Status": None,
    }


def is_get(output: Any, request: dict[str, Any]) -> bool:
    """Return whether a request is a GET; to another method it is answered which one is allowed."""
    if request["method"] != "GET":
        output.SendMethodNotAllowed("GET")
    return bool(request["method"] == "GET")


def send_503(output: Any, body: str) -> None:
    """Send a body with the status 503: plugin 4.0 and 4.1 want its length in bytes as a third argument."""
    try:
        output.SendHttpStatus(503, body)  # from plugin 4.2, which adds a Content-Type by itself
    except TypeError:
        output.SetHttpHeader("Content-Type", "application/json")
        output.SendHttpStatus(503, body, len(body.encode()))


# ---- src/combine/runtime/loader.py: Finds and loads the modules of a combined file.


class Loader(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules of the combined file, each with its own file name, lines and text."""

    def __init__(
        self, scripts: list[Script], owners: dict[int, Script], log: Log, folder: Path, files: dict[str, bytes]
    ) -> None:
        self.owners, self.log, self.folder, self.files = owners, log, folder, files
        self.all_scripts = scripts
        self.scripts = {module: script for script in scripts for module in script.modules}

    def find_spec(
        self, fullname: str, path: object, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname in self.scripts:
            file = self.get_filename(fullname)
            places = [str(Path(file).parent)] if self.is_package(fullname) else None
            return importlib.util.spec_from_file_location(
                fullname, file, loader=self, submodule_search_locations=places
            )
        if any(module.startswith(fullname + ".") for module in self.scripts):  # a folder without __init__.py
            return importlib.machinery.ModuleSpec(fullname, None, is_package=True)
        return None

    def is_package(self, fullname: str) -> bool:
        return self.scripts[fullname].modules[fullname].endswith("/__init__.py")

    def get_filename(self, fullname: str) -> str:
        return str(self.folder / self.scripts[fullname].modules[fullname])

    def content(self, fullname: str) -> bytes:
        script = self.scripts[fullname]
        return self.files[script.files[script.modules[fullname]]]

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self.content(fullname))

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.content(fullname), self.get_filename(fullname))

    def get_data(self, path: str) -> bytes:
        """Answer `pkgutil.get_data`."""
        name = os.path.relpath(path, self.folder).replace(os.sep, "/")
        for script in self.all_scripts:
            if name in script.files:
                return self.files[script.files[name]]
        raise FileNotFoundError(path)

    def get_resource_reader(self, fullname: str) -> Any:
        """Answer `importlib.resources` with the package's files as an archive in memory."""
        if not self.is_package(fullname):
            return None
        script = self.scripts[fullname]
        top = script.modules[fullname].removesuffix("__init__.py")
        archive = zipfile.ZipFile(io.BytesIO(), "w")
        archive.filename = str(self.folder / top)
        for name, digest in script.files.items():
            if name.startswith(top):
                archive.writestr(zipfile.ZipInfo(name.removeprefix(top)), self.files[digest])
        return SimpleNamespace(files=lambda: zipfile.Path(archive))

    def exec_module(self, module: ModuleType) -> None:
        name, file = module.__name__, self.get_filename(module.__name__)
        script = self.scripts[name]
        self.owners[id(module.__dict__)] = script
        # Without a time of change the entry stays, whatever lies on the disk under that name.
        linecache.cache[file] = (len(self.content(name)), None, self.get_source(name).splitlines(True), file)
        if name != script.module:
            super().exec_module(module)
            return
        script.state = "loading"
        try:
            super().exec_module(module)
            script.state = "loaded"
            while script.pending:
                script.pending.pop(0)()
        except BaseException as error:
            script.state, script.error = "failed", self.log.describe(error)
            script.pending.clear()
            traced = self.log.trace(error)
            self.log.write("Error", f"The script {name} failed to load: {script.error}, traceback:\n{traced}")
            raise


# ---- src/combine/runtime/registry.py: Takes what scripts register.


class Registry:
    """What the scripts registered: what several may have is shared out, what one only can have is one script's."""

    def __init__(
        self,
        scripts: list[Script],
        functions: Mapping[str, Any],
        log: Log,
        dispatcher: Dispatcher,
        allow_conflict: bool,
    ) -> None:
        self.scripts, self.functions, self.log, self.dispatcher = scripts, functions, log, dispatcher
        self.allow_conflict = allow_conflict
        self.routes: list[tuple[Script, str]] = []
        self.single: dict[str, Script] = {}

    def register(self, script: Script, name: str, args: tuple[Any, ...]) -> None:
        """Take what a script registers; mistakes raise at once what the plugin raises, the rest waits for its load."""
        if name in SHARED:
            if len(args) != 1:
                raise ValueError(f"Expected a callback function to register one {SHARED[name]}")
            script.ask_once(name)
            callback = script.callback(name, args[0])
            script.when_loaded(lambda: self.dispatcher.share(name, callback))
        elif name == "RegisterRestCallback":
            if len(args) != 2 or not isinstance(args[0], str):
                raise ValueError("Expected a string (URI) and a callback function")
            handler = script.callback(f"{name} {args[0]}", args[1])
            script.when_loaded(lambda: self._add_route(script, args[0], handler))
        elif name.startswith("Extend"):
            script.when_loaded(lambda: self._extend(script, name, args))
        elif any(callable(arg) for arg in args):
            script.ask_once(name)
            wrapped = [
                script.callback(f"{name} {getattr(arg, '__name__', '')}".strip(), arg) if callable(arg) else arg
                for arg in args
            ]
            script.when_loaded(lambda: self._own(script, name, wrapped))
        else:  # a tag of the dictionary, an error code
            self.functions[name](*args)

    def _refuse(self, script: Script, other: Script, what: str) -> None:
        """Stop at a conflict, or say who has it where conflicts are allowed."""
        message = f"{script.module} and {other.module} both register {what}"
        if not self.allow_conflict:
            raise RuntimeError(f"{message}, and Orthanc takes one only (combine.py --allow-conflict: the first wins)")
        self.log.write("Warning", f"{message}: {other.module} has it, as it came first (--allow-conflict)")

    def _add_route(self, script: Script, pattern: str, handler: Callback) -> None:
        for other, taken in self.routes:
            if other is not script and collide(pattern, taken):
                what = pattern if pattern == taken else f"{pattern} and {taken}, which take the same paths,"
                self._refuse(script, other, f"the route {what}")
        self.routes.append((script, pattern))
        self.functions["RegisterRestCallback"](pattern, handler)

    def _own(self, script: Script, name: str, args: list[Any]) -> None:
        other = self.single.setdefault(single_owner(name), script)
        if other is script:
            self.functions[name](*args)
        else:
            self._refuse(script, other, name)

    def _extend(self, script: Script, name: str, args: tuple[Any, ...]) -> None:
        """Join what the scripts add to Orthanc Explorer; of one script the last counts, as in the plugin."""
        key = (name, *args[:-1])
        if args and isinstance(args[-1], str):
            script.explorer[key] = args[-1]
            parts = [f"// {one.module}\n{one.explorer[key]}\n;" for one in self.scripts if key in one.explorer]
            args = (*args[:-1], "\n".join(parts))
        self.functions[name](*args)


# ---- src/combine/runtime/requests.py: Tells one script of a combined file what the others ask their own Orthanc for: no filter of requests is shown that.


class OwnRequests:
    """Hands each request of a script, before it is sent, to the other scripts that listen."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.listeners: tuple[Callback, ...] = ()

    def listen(self, script: Script, function: Callable[..., Any]) -> None:
        """Call a function of a script with the name of each other one, and what that reports."""
        callback = script.callback("listen_to_requests", function)
        script.when_loaded(lambda: self._add(callback))

    def _add(self, callback: Callback) -> None:
        self.listeners = (*self.listeners, callback)

    def report(self, script: Script, *request: Any) -> None:
        """Take what a script says of a request that it is about to send."""
        for callback in self.listeners:
            if callback.script is not script:
                self.log.guard(callback, script.module, *request)


# ---- src/combine/runtime/modules.py: Gives each script an `orthanc` of its own.


class Modules:
    """What is between a script and the module `orthanc`: its own functions that register and log."""

    def __init__(
        self, real: Any, functions: Mapping[str, Any], owners: Mapping[int, Script], log: Log, registry: Registry
    ) -> None:
        self.real, self.functions, self.owners, self.log, self.registry = real, functions, owners, log, registry
        self.requests = OwnRequests(log)

    def install(self, scripts: list[Script]) -> None:
        """Give each script its `orthanc`, and let whoever asks for it find the right one.

        The real module stays in `sys.modules`: the plugin reads its own state from what is there.
        """
        for script in scripts:
            vars(script.orthanc).update(self.functions)
            self._replace(script.orthanc, itertools.repeat(script).__next__)
            vars(script.orthanc)["add_script_entries"] = script.add_entries
            vars(script.orthanc)["report_request"] = functools.partial(self.requests.report, script)
            vars(script.orthanc)["listen_to_requests"] = functools.partial(self.requests.listen, script)
        self._replace(self.real, self.owner)
        special = {"orthanc"}.union(*(script.aliases for script in scripts))
        plain_import, plain_import_module, plain_start = (
            builtins.__import__,
            importlib.import_module,
            threading.Thread.start,
        )

        def find(name: str, script: Script | None) -> str | ModuleType:
            if script is None:
                return name
            head, dot, rest = name.partition(".")
            return script.orthanc if name == "orthanc" else script.aliases.get(head, head) + dot + rest

        def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:  # noqa: A002
            found: str | ModuleType = name
            if not level and name.partition(".")[0] in special:
                # A library that a script loads gets the script's `orthanc`, yet not the script's neighbours in its folder.
                whose = globals is None or name == "orthanc" or "__name__" not in globals
                found = find(name, self.owner() if whose else self.owners.get(id(globals)))
            return plain_import(found, globals, locals, fromlist, level) if isinstance(found, str) else found

        def import_module(name: str, package: str | None = None) -> ModuleType:
            found = find(name, self.owner() if name.partition(".")[0] in special else None)
            return plain_import_module(found, package) if isinstance(found, str) else found

        def start(thread: threading.Thread) -> None:
            script = self.owner()
            if script is not None and not thread.name.startswith(f"{script.module}: "):
                vars(thread)["combined_script"] = script
                thread.name = f"{script.module}: {thread.name}"
            plain_start(thread)

        share_connections()
        builtins.__import__ = import_
        importlib.import_module = import_module
        threading.Thread.start = start  # type: ignore[assignment, method-assign]

    def owner(self) -> Script | None:
        """Find the script whose code is running: the nearest on the stack, else the one whose thread this is."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if (script := self.owners.get(id(frame.f_globals))) is not None:
                return script
            frame = frame.f_back
        return getattr(threading.current_thread(), "combined_script", None)

    def _replace(self, module: ModuleType, who: Callable[[], Script | None]) -> None:
        """Put our own functions in the place of those of `orthanc` that register and log."""
        for name, function in self.functions.items():
            if re.match("Register|ExtendOrthancExplorer", name):
                action = self.registry.register
            elif re.match("Log(?!Category|Level)", name):
                action = self.log.write_for
            else:
                continue

            def call(*args: Any, name: str = name, action: Callable[..., Any] = action) -> Any:
                script = who()
                return self.functions[name](*args) if script is None else action(script, name, args)

            call.__name__ = call.__qualname__ = name
            call.__doc__ = function.__doc__
            setattr(module, name, call)


# ---- src/combine/runtime/runtime.py: Runs the scripts of a combined file.


def read_settings(functions: Mapping[str, Any]) -> dict[str, Any]:
    """Read the section CombinedScripts; a wrong value is an ERROR line and the default."""
    allowed: dict[str, list[Any]] = {"OnLoadError": ["stop", "skip"], "LogPrefix": [True, False]}
    section = json.loads(functions["GetConfiguration"]()).get("CombinedScripts", {})
    if not isinstance(section, dict):
        functions["LogError"]("CombinedScripts must be an object: the defaults are used")
        section = {}
    settings = {key: values[0] for key, values in allowed.items()}
    for key, value in section.items():
        if value in ("true", "false"):  # an environment variable is a text
            value = value == "true"
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, 1, 0)
            functions["LogError"](f"CombinedScripts has no key {key!r}: did you mean {near[0]!r}?")
        elif json.dumps(value) not in map(json.dumps, allowed[key]):
            choice = " or ".join(json.dumps(one) for one in allowed[key])
            functions["LogError"](
                f"CombinedScripts: {key} is {json.dumps(value)}, allowed is {choice}: "
                f"{json.dumps(settings[key])} is used"
            )
        else:
            settings[key] = value
    return settings


class Runtime:
    """What is between Orthanc and the scripts of a combined file."""

    def __init__(self, real: Any, scripts: list[Script], allow_conflict: bool) -> None:
        self.scripts = scripts
        # The functions as they are now: what scripts get in their place is in `real` too (see Modules.install).
        self.functions: dict[str, Any] = dict(vars(real))
        self.owners: dict[int, Script] = {}
        self.kept: list[Any] = []
        self.settings = read_settings(self.functions)
        self.log = Log(self.functions, self.owners)
        self.log.prefix = self.settings["LogPrefix"]
        dispatcher = Dispatcher(real, self.functions, self.log)
        self.changes = dispatcher.changes
        registry = self.registry = Registry(scripts, self.functions, self.log, dispatcher, allow_conflict)
        self.modules = Modules(real, self.functions, self.owners, self.log, registry)

    def start(self, combined: str, file: Path) -> None:
        """Load every script, in the order of the command line."""
        loader = Loader(self.scripts, self.owners, self.log, file.absolute().parent, unpack(file.read_text("utf-8")))
        sys.meta_path.insert(0, loader)
        self.modules.install(self.scripts)
        # What abc keeps of a first isinstance(), made in a received-instance callback, crashes plugin 7.1 with Python 3.14
        # when it ends: here, where it does no harm, is the one that formatting an error makes.
        self.log.trace(ImportError())
        self.kept.append(self.answer_status)
        self.functions["RegisterRestCallback"]("/combined-scripts", self.kept[-1])
        if combined in loader.scripts:  # the combined file bears the name of one of its scripts
            self.kept.append(sys.modules.pop(combined))
        for script in self.scripts:
            try:
                if script.state == "failed":  # when another script imported it
                    raise ImportError(f"the script {script.module} failed to load")
                importlib.import_module(script.module)
            except BaseException:
                if self.settings["OnLoadError"] == "stop":
                    raise
                self.log.write("Error", f"Orthanc goes on without {script.module}")
        self.speak_for_all()

    def speak_for_all(self) -> None:
        """Register `/scripts` and `/scripts/health`, unless a script has such a route of its own."""
        for path, answer in ScriptList(self.scripts, self.log).routes.items():
            if owners := [script.module for script, pattern in self.registry.routes if collide(pattern, path)]:
                self.log.write("Warning", f"{owners[0]} has the route {path}: it does not speak for all scripts")
            else:
                self.kept.append(answer)
                self.functions["RegisterRestCallback"](path, answer)

    def answer_status(self, output: Any, uri: str, **request: Any) -> None:
        """Answer `GET /combined-scripts`."""
        if request["method"] != "GET":
            output.SendMethodNotAllowed("GET")
            return
        output.AnswerBuffer(json.dumps([self.status(script) for script in self.scripts], indent=2), "application/json")

    def status(self, script: Script) -> dict[str, Any]:
        return {
            "Name": script.module,
            "File": script.file,
            "Version": script.version,
            "SHA256": script.sha256,
            "State": script.state,
            "Error": script.error,
            "Callbacks": [
                {"Name": one.kind, "Calls": one.calls, "Errors": one.errors, "Seconds": round(one.seconds, 6)}
                for one in script.callbacks
            ],
        }


def run(name: str, file: str, scripts: list[dict[str, Any]], allow_conflict: bool) -> Runtime:
    """Start the combined file `file`, which Orthanc knows as the module `name`."""
    import orthanc

    runtime = Runtime(orthanc, [Script(**script) for script in scripts], allow_conflict)
    runtime.start(name, Path(file))
    return runtime


# ---- src/combine/writing.py: Writes the combined file.


HELP = """if __name__ == "__main__":  # started in a terminal: Orthanc loads it under its own name
    print(__doc__.rstrip())
    sys.exit(0 if sys.argv[1:] in ([], ["-h"], ["--help"]) else 2)
"""


def pack(data: bytes, name: str) -> str:
    """Write a file as comment lines, readable where its bytes come back exactly, else in base64."""
    digest = hashlib.sha256(data).hexdigest()
    for newline, mark in NEWLINES.items():
        lines, form = decode(data, name, mark)
        if lines is not None:
            return f"#= {digest} {form} {newline} {name}\n" + "".join(
                f"#| {line}\n" if line else "#|\n" for line in lines
            )
    text = base64.encodebytes(data).decode().rstrip("\n").replace("\n", "\n#| ")
    return f"#= {digest} base64 lf {name}\n#| {text}\n"


def decode(data: bytes, name: str, newline: str) -> tuple[list[str] | None, str]:
    """Read a file as lines in the encoding that it declares; None where that would not give its bytes back."""
    try:
        form, _ = tokenize.detect_encoding(io.BytesIO(data).readline) if name.endswith(".py") else ("utf-8", [])
        lines = data.decode(form).split(newline)
        exact = newline.join(lines).encode(form) == data
    except (SyntaxError, UnicodeError, LookupError):
        return None, "base64"
    return (lines if exact and not re.search("[\r\n\0]", "".join(lines)) else None), form


def version_of(source: Source) -> str | None:
    """Return the version of a script: its own `__version__`, or the one that it imports from a file of its package."""
    imported = {name: values[0] for name, values in imported_values(source.main, source.trees).items()}
    node = (imported | assigned(source.trees[source.main])).get("__version__")
    return constant(node, {}) if node else None


def digest_of(source: Source) -> str:
    """Hash a script: of a file its bytes, of a package the list of its files' hashes and names."""
    if not source.package:
        return hashlib.sha256(source.files[source.main]).hexdigest()
    own = sorted(name for name in source.files if name.startswith(f"{source.name}/"))
    listing = "".join(f"{hashlib.sha256(source.files[name]).hexdigest()}  {name}\n" for name in own)
    return hashlib.sha256(listing.encode()).hexdigest()


def entry(source: Source) -> dict[str, Any]:
    """Describe a source as the runtime's Script takes it."""
    modules = {}
    for name in source.trees:
        parts = module_name(name).removesuffix("/__init__").split("/")
        parts[0] = source.module if parts[0] == source.name else source.aliases.get(parts[0], parts[0])
        modules[".".join(parts)] = source.folder + name
    return {
        "module": source.module,
        "file": source.folder + source.main.removesuffix("/__init__.py"),
        "folder": source.folder,
        "version": version_of(source),
        "sha256": digest_of(source),
        "aliases": dict(sorted(source.aliases.items())),
        "modules": modules,
        "files": {source.folder + name: hashlib.sha256(data).hexdigest() for name, data in source.files.items()},
    }


def docstring(sources: list[Source]) -> str:
    """Write the docstring of a combined file, which `python3 combined.py --help` prints."""
    lines = [f"Several scripts for Orthanc in one, made by combine.py {__version__}:", ""]
    for source in sources:
        about = (ast.get_docstring(source.trees[source.main]) or "").partition("\n")[0]
        lines.append(f"    {source.main.removesuffix('/__init__.py')} {version_of(source) or ''}".rstrip())
        lines += [f"        {about}"] if about else []
    lines += ["", 'Name this file in Orthanc\'s configuration: "PythonScript": "/path/to/this/file".']
    return "\n".join(["(", *(f"    {text!a}" for text in (f"{line}\n" for line in lines)), ")"])


def runtime_text() -> str:
    """Cut the runtime out of this very file, which `make build` made, with the imports that it uses."""
    text = Path(__file__).read_text("utf-8")
    sections = re.split(r"^# ---- (?=src/)", text, flags=re.MULTILINE)[1:]
    chosen = [section for section in sections if section.startswith("src/combine/runtime/")]
    runtime = "".join(f"# ---- {section.rstrip()}\n\n\n" for section in chosen)
    used = {node.id for node in ast.walk(ast.parse(runtime)) if isinstance(node, ast.Name)}
    imports = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import) and node.names[0].name.partition(".")[0] in used:
            imports.append(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            names = [alias.name for alias in node.names if alias.name in used]
            imports += [f"from {node.module} import {', '.join(names)}"] if names else []
    return "\n".join(["from __future__ import annotations", "", *imports, "", "", runtime.rstrip(), ""])


def render(sources: list[Source], options: argparse.Namespace) -> str:
    entries = [entry(source) for source in sources]
    flags = [f"--{name.replace('_', '-')}" for name in ("no_bundle", "allow_conflict") if getattr(options, name)]
    words = [source.path.resolve().name for source in sources] + flags
    blocks: dict[str, str] = {}
    for source in sources:
        for name, data in source.files.items():
            blocks.setdefault(hashlib.sha256(data).hexdigest(), pack(data, source.folder + name))
    table = [f"#   {e['file']:<28} {e['version'] or '-':<9} {e['sha256']}" for e in entries]
    return "\n".join(
        [
            f"{MARK} {__version__}; don't edit: change the scripts and combine again.",
            f"#     python3 combine.py {shlex.join(words)} -o FILE",
            "# It holds these scripts, unchanged, at its end (python3 combine.py --extract FILE FOLDER gives them back):",
            "#",
            "#   script                       version   SHA-256",
            *table,
            "#",
            "# Each script keeps its own licence; the rest is AGPL-3.0-or-later.",
            docstring(sources),
            runtime_text(),
            "",
            HELP,
            "SCRIPTS: list[dict[str, Any]] = " + pprint.pformat(entries, width=110, sort_dicts=False),
            "",
            f"RUNTIME = {run.__name__}(__name__, __file__, SCRIPTS, allow_conflict={options.allow_conflict})",
            "",
            *blocks.values(),
        ]
    )


def write(path: Path, text: str) -> None:
    """Write all or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CombineError(f"{path} can't be written: {error.strerror}") from None


# ---- src/combine/__init__.py


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line."""

    def error(self, message: str) -> Any:
        raise CombineError(f"{message} (--help tells more)")


def arguments() -> Parser:
    parser = Parser(
        prog="combine.py",
        usage="%(prog)s SCRIPT [SCRIPT ...] -o FILE [--config PATH] [--no-bundle] [--allow-conflict] [--force]\n"
        "       %(prog)s SCRIPT [SCRIPT ...] --config PATH\n"
        "       %(prog)s --list FILE | --verify FILE [SCRIPT ...] | --extract FILE FOLDER",
        description="Make one Orthanc script of many.",
        epilog="Example: python3 combine.py auto_forward_modality.py purge_old_studies.py dicom_events "
        "-o /etc/orthanc/scripts/combined.py --config /etc/orthanc",
    )
    parser.add_argument("sources", nargs="*", type=Path, metavar="SCRIPT", help="a script or a package's folder")
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="FILE",
        help="the combined file to write; needed, except with --config, --list, --verify and --extract",
    )
    parser.add_argument("--no-bundle", action="store_true", help="leave out what scripts import from their own folder")
    parser.add_argument(
        "--allow-conflict",
        action="store_true",
        help="where two scripts want the same route or callback, the first wins",
    )
    parser.add_argument("--force", action="store_true", help="replace the output, also if it is no combined file")
    parser.add_argument("--version", action="version", version=f"combine.py {__version__}")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="PATH",
        help="check Orthanc's configuration, a file or folder; status 1 if something is wrong or missing, 2 if it can't be read",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--list", type=Path, metavar="FILE", help="show what a combined file holds")
    group.add_argument("--verify", type=Path, metavar="FILE", help="say which scripts changed since; 1 if any did")
    group.add_argument(
        "--extract", type=Path, nargs=2, metavar=("FILE", "FOLDER"), help="write the scripts as they were"
    )
    return parser


def collect(paths: Sequence[Path], options: argparse.Namespace) -> list[Source]:
    sources = [read_source(path) for path in paths]
    given: dict[Path, Source] = {}
    for source in sources:
        if source.path.resolve() in given:
            raise CombineError(f"{source.path} is given twice")
        given[source.path.resolve()] = source
    for source in sources:
        bundle(source, given, not options.no_bundle)
    name_modules(sources, options.allow_conflict)
    place(sources, options.allow_conflict)
    return sources


def combine(options: argparse.Namespace) -> int:
    if not options.sources or (options.output is None and options.config is None):
        raise CombineError("name the scripts and the file to write: combine.py A.py B.py -o combined.py")
    sources = collect(options.sources, options)
    found = list(conflicts(sources))
    if found and not options.allow_conflict:
        raise CombineError("; ".join(found) + " (--allow-conflict: the first wins)")
    for missing in missing_imports(sources, options.output):
        print(f"combine.py: warning: {missing}", file=sys.stderr)
    problems = list(check_configuration(options.config, sources, options.output)) if options.config else []
    if options.output:
        check_output(options.output, sources, force=options.force)
        write(options.output, render(sources, options))
    for problem in problems:
        print(f"{options.config}: {problem}", file=sys.stderr)
    return 1 if problems else 0


def check_output(path: Path, sources: list[Source], *, force: bool) -> None:
    if path.suffix.lower() != ".py" or "." in path.stem or path.stem == "orthanc":
        raise CombineError(f"{path}: Orthanc can't load a script of this name (one dot, .py, and not orthanc.py)")
    if any(path.resolve() in source.read_from for source in sources):
        raise CombineError(f"{path} is one of the files that go in: it is left as it is; write to another one")
    if path.is_file() and path.stat().st_size and not read(path).startswith(MARK.encode()) and not force:
        raise CombineError(f"{path} is there and no combined file: it is left as it is (--force replaces it)")


def main(words: Sequence[str] | None = None) -> int:
    try:
        options = arguments().parse_args(words)
        if options.list:
            return show(options.list)
        if options.verify:
            return verify(options.verify, options.sources)
        if options.extract:
            return extract(*options.extract)
        return combine(options)
    except (CombineError, OSError) as error:
        print(f"combine.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    gc.disable()  # it would look through half a million nodes again and again, half of the time, and find nothing to free
    sys.exit(main())
