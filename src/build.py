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

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from build_sources import LIBRARIES, PACKAGES, BuildError, Line, Module, Sources

LINE_LENGTH = 120  # characters
FUTURE = "from __future__ import annotations"
# What follows the docstring of each script: in a terminal there is no module orthanc, and a traceback would tell nobody anything.
HELP = """if __name__ == "__main__":  # started in a terminal: Orthanc loads it under its own name
    import sys

    print(__doc__)
    sys.exit(0 if sys.argv[1:] in ([], ["-h"], ["--help"]) else 2)
"""


class Builder:
    """Builds from `src`, a folder, into the folder above it. Paths in messages are relative to that one."""

    def __init__(self, src: Path) -> None:
        self.src, self.out, self.sources = src, src.parent, Sources(src)

    def built(self) -> dict[Path, list[Line]]:
        """Return the lines of each built file by its path."""
        found: dict[Path, list[Line]] = {}
        for path in sorted(self.src.iterdir()):
            if path.name in PACKAGES:
                found.update(self._package(path))
            elif path.suffix == ".py" and not path.stem.startswith("build"):
                found[self.out / path.name] = self._script(path)
            elif (path / "__init__.py").exists() and path.name not in LIBRARIES:
                found[self.out / f"{path.name}.py"] = self._script(path / "__init__.py")
        return found

    def _script(self, path: Path) -> list[Line]:
        entry = self.sources.module(path)
        own_folder = path.parent if path.name == "__init__.py" else None
        modules = [self.sources.module(each) for each in self._closure(path)]
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
        first_line = path.read_text().partition("\n")[0]
        lines = [
            *(_made(first_line) if first_line.startswith("#!") else []),
            *_made("# SPDX-License-Identifier: AGPL-3.0-or-later"),
            *_made(
                f"# Built by `make build` from {entry.label}: edit that, never this file. What it shares with other scripts"
            ),
            *_made(
                "# comes first, its own last. `python3 src/build.py --where FILE:LINE` tells where a line comes from."
            ),
            *_made(f'"""{entry.docstring}"""', "", FUTURE, ""),
            *(_made(HELP) if _needs_orthanc(entry) else []),
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
                circle = " -> ".join(self.sources.label(one) for one in (*under_way[under_way.index(each) :], each))
                raise BuildError(f"these import each other: {circle}")
            under_way.append(each)
            for other in self.sources.module(each).needs:
                add(other)
            under_way.pop()
            found.append(each)

        add(path)
        return found

    def _package(self, folder: Path) -> dict[Path, list[Line]]:
        """Return the files of a package: its own with `from common.x import …` made relative, and `_common/`."""
        own = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
        target = self.out / folder.name
        found = {}
        shared: dict[Path, None] = {}
        for path in own:
            found[target / path.relative_to(folder)] = self._relative(path, len(path.relative_to(folder).parts))
            if path.suffix == ".py":
                for need in self.sources.module(path).needs:
                    if folder not in need.parents:
                        shared.update(dict.fromkeys(self._closure(need)))
        for path in sorted(shared):
            if path.parent != self.src / "common":
                raise BuildError(
                    f"{self.sources.label(folder)} imports {self.sources.label(path)}: a package may import src/common/ only"
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
            lines.append((text, f"{self.sources.label(path)}:{number}"))
            if text == FUTURE and path.parent.name in PACKAGES and path.name == "__init__.py":
                lines += _made("", *HELP.rstrip().split("\n"))
            if number == 1 and path.suffix == ".py":
                lines += _made(f"# Built by `make build` from {self.sources.label(path)}: edit that, never this file.")
        return lines


def _made(*texts: str) -> list[Line]:
    return [(line, "") for text in texts for line in text.split("\n")]


def _needs_orthanc(entry: Module) -> bool:
    """Return whether an entry is a script that only Orthanc can load: it is no program of its own."""
    texts = [text for text, _ in (*entry.preamble, *entry.body)]
    imports_orthanc = "import orthanc" in (*entry.imports, *map(str.strip, texts))
    return imports_orthanc and not any('__name__ == "__main__"' in text for text in texts)


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
