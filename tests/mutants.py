# SPDX-License-Identifier: AGPL-3.0-or-later
"""Breaks guards on purpose, one at a time, in copies of the sources: a test has to notice each (`make mutate`).

    python -m tests.mutants [WORD]      the rows of tests/*/mutants.py whose file or text has this word

One line for each change that no test noticed, and for each text that is not in its file any more: correct the table then.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parents[1]
COPIED = ("src", "testing", "tests", "docs", "examples", "pyproject.toml")
LONGEST_SECONDS = 300  # of the tests of one change: one that makes them hang is noticed too
TESTS_FAILED = 1  # pytest's exit status; others say that it could not run


class Mutant(NamedTuple):
    """One change, and the tests that have to notice it."""

    file: str
    tests: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.file}: {self.old!r} -> {self.new!r}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Break guards on purpose; a test has to notice each.")
    parser.add_argument("word", nargs="?", default="", help="only rows whose file or text has this word")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="changes at a time")
    options = parser.parse_args()
    mutants = [mutant for mutant in every_mutant() if options.word in mutant.file or options.word in mutant.old]
    with tempfile.TemporaryDirectory() as folder:
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(options.jobs):
            copies.put(copy_tree(Path(folder) / str(number)))
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            complaints = list(pool.map(lambda mutant: complaint_about(mutant, copies), mutants))
    print(f"{len(mutants)} changes, {len(mutants) - complaints.count('')} were not noticed")
    return int(any(complaints) or not mutants)


def every_mutant() -> list[Mutant]:
    """Return the rows of all tables."""
    rows = (row for path in tables_of_folders() for row in table_of(path).items())
    return [Mutant(file, tests, old, new) for (file, tests), changes in rows for old, new in changes.items()]


def tables_of_folders() -> list[Path]:
    """Return the files that have a table, one for each folder of tests."""
    return sorted(HERE.glob("tests/*/mutants.py"))


def table_of(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Return the table in such a file."""
    module = importlib.import_module(".".join(path.relative_to(HERE).with_suffix("").parts))
    table: dict[tuple[str, str], dict[str, str]] = module.TABLE
    return table


def copy_tree(folder: Path) -> Path:
    """Copy what the tests need, with the scripts that are built."""
    folder.mkdir()
    for source in [*(HERE / name for name in COPIED), *HERE.glob("*.py"), HERE / "dicom_events"]:
        if source.is_dir():
            shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    return folder


def complaint_about(mutant: Mutant, copies: queue.Queue[Path]) -> str:
    """Make one change in a copy and run its tests; print and return what is wrong, an empty text if they notice it."""
    copy = copies.get()
    try:
        complaint = run(mutant, copy)
    finally:
        copies.put(copy)
    if complaint:
        print(f"{complaint} {mutant}", flush=True)
    return complaint


def run(mutant: Mutant, copy: Path) -> str:
    path = copy / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        return f"NOT FOUND ({text.count(mutant.old)} times)"
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        build(copy)
        command = [sys.executable, "-m", "pytest", mutant.tests, "-q", "-x", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LONGEST_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    finally:
        path.write_text(text)
    if done.returncode == TESTS_FAILED:
        return ""
    return "SURVIVED" if done.returncode == 0 else f"COULD NOT RUN ({done.stdout[-500:]}{done.stderr[-500:]})"


def build(copy: Path) -> None:
    """Build the scripts of a copy: some tests load those."""
    subprocess.run([sys.executable, "src/build.py"], cwd=copy, capture_output=True, check=True)


if __name__ == "__main__":
    sys.exit(main())
