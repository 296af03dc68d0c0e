# SPDX-License-Identifier: AGPL-3.0-or-later
"""make coverage: which lines of src/ the tests run, in their own process and inside real Orthancs, on the newest version.

Lines of the built scripts are mapped back to src/. Prints each file's share, and writes the lines that no test has run into
build/coverage/missing.txt. Fails below `LEAST`. Arguments go to pytest.

The newest Orthanc, since Python 3.12 and later notes the lines of threads, too, that Python has not begun: all of Orthanc's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from coverage import CoverageData
from coverage.parser import PythonParser

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "coverage"
[PACKAGE] = [
    line for line in (ROOT / "tests/requirements.txt").read_text().splitlines() if line.startswith("coverage==")
]
SUITE = "forky"
LEAST = 90.0  # percent of the lines


def site_of_orthanc() -> Path:
    """Return a folder with the package for Orthanc's Python, and what starts it."""
    version = embedded_version()
    folder = FOLDER / f"site-{version}"
    if not (folder / "coverage").is_dir():
        command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install", "--target", str(folder)]
        subprocess.run([*command, "--only-binary=:all:", "--python-version", version, PACKAGE], check=True)
    shutil.copy(Path(__file__).with_name("sitecustomize.py"), folder)
    return folder


def embedded_version() -> str:
    """Return the Python of the newest Orthanc, after its tree was made."""
    command = ["tests/all_versions", "-q", "--collect-only", "tests/test_build.py"]
    environment = {**os.environ, "VERSIONS": SUITE}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    [library] = {path.name for path in (ROOT / ".orthancs" / SUITE / "usr").rglob("libpython3.*.so.1.0")}
    return library.removeprefix("libpython").removesuffix(".so.1.0")


def run_tests(arguments: list[str], data: Path) -> int:
    """Run the tests; return their status."""
    # Whatever is called as a script is called, or lies in its package, wherever a test puts it.
    covered = [f"{ROOT}/src/*", *(f"*/{path}" for path in built_lines())]
    environment = {
        **os.environ,
        "VERSIONS": SUITE,
        "PYTHONPATH": str(Path(__file__).parent),
        "MORE_SITE": str(site_of_orthanc()),
        "SCRIPTS_COVERAGE": str(data),
        "SCRIPTS_COVERED": os.pathsep.join(covered),
    }
    return subprocess.run(["tests/all_versions", *arguments], cwd=ROOT, env=environment, check=False).returncode


def built_lines() -> dict[str, list[str]]:
    """Return of each built file the `FILE:LINE` of src/ that its lines come from; "" for a line of the builder's."""
    sys.path.insert(0, str(ROOT / "src"))
    from build import Builder

    builder = Builder(ROOT / "src")
    return {
        path.relative_to(builder.out).as_posix(): [origin or "" for _, origin in lines]
        for path, lines in builder.built().items()
    }


def lines_that_ran(data: Path) -> dict[str, set[int]]:
    """Return the lines of each file of src/ that were noted in any process."""
    built, found = built_lines(), defaultdict[str, set[int]](set)
    for file in sorted(data.glob("lines*")):
        noted = CoverageData(str(file))
        noted.read()
        for measured in noted.measured_files():
            lines = noted.lines(measured) or []
            if measured.startswith(f"{ROOT}/src/"):
                found[measured.removeprefix(f"{ROOT}/")].update(lines)
                continue
            matching = [name for name in built if measured.endswith("/" + name)]
            for origin in origins(built[max(matching, key=len)], lines) if matching else ():
                path, _, line = origin.rpartition(":")
                found[path].add(int(line))
    return found


def origins(built: list[str], lines: list[int]) -> Iterator[str]:
    """Yield where the lines of a built file come from."""
    for line in lines:
        if line <= len(built) and built[line - 1]:
            yield built[line - 1]


def statements(path: Path) -> set[int]:
    """Return the lines of a file that can be run: the first of each statement."""
    parser = PythonParser(text=path.read_text(), exclude=r"#\s*pragma: no cover|if TYPE_CHECKING:")
    parser.parse_source()
    return set(parser.statements)


def first_lines(path: Path, lines: set[int]) -> set[int]:
    """Return the first lines of the statements of which these lines are."""
    parser = PythonParser(text=path.read_text())
    parser.parse_source()
    return set(parser.first_lines(lines))


def report(ran: dict[str, set[int]]) -> float:
    """Print each file's share and write what is missing; return the percentage of all."""
    missing, total, covered = [], 0, 0
    for path in sorted((ROOT / "src").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        every = statements(path)
        here = every & first_lines(path, ran.get(name, set()))
        total, covered = total + len(every), covered + len(here)
        if every:
            print(f"{100 * len(here) / len(every):6.1f} %  {name}")
        missing += [f"{name}:{line}" for line in sorted(every - here)]
    (FOLDER / "missing.txt").write_text("".join(f"{line}\n" for line in missing))
    print(f"{100 * covered / total:6.1f} %  of {total} lines; the {len(missing)} others: {FOLDER}/missing.txt")
    return 100 * covered / total


def main(arguments: list[str]) -> int:
    """Return 1 if a test fails, or too few lines were run."""
    data = FOLDER / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    status = run_tests(arguments, data)
    percent = report(lines_that_ran(data))
    return int(bool(status) or percent < LEAST)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
