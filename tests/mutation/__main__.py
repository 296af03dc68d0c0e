# SPDX-License-Identifier: AGPL-3.0-or-later
"""Changes each condition, number, exception and loop of what must not fail; a unit test has to notice (`make mutate-wide`).

    python -m tests.mutation [WORD] [-j JOBS]      the subjects of subjects.py that have this word, or modules with it

cosmic-ray makes the changes, in copies of the sources, and keeps what came of each in build/mutation/*.sqlite (its own
`cr-report` reads them). build/mutation/report.txt has the score of each module and all that no test noticed. The exit
status is 1 if one of these is not in survivors.py, with a reason, or a score is below 90 %.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import queue
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.mutants import HERE, copy_tree
from tests.mutation.subjects import SUBJECTS, Subject
from tests.mutation.survivors import SURVIVORS

TOOL = HERE / "build" / "cosmic-ray" / "bin"
REPORTS = HERE / "build" / "mutation"
LEAST_SCORE = 90.0  # percent of the changes of a module that tests notice
LONGEST_SECONDS = 120.0  # of the tests of one change: one that makes them hang is noticed, too
# One change of each kind, and of a comparison that with its neighbour and that with its opposite. Of `a == b` the tool makes
# seven others, which no test could miss that notices these.
OPERATORS = (
    r"ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Lt_(LtE|GtE)|LtE_(Lt|Gt)|Gt_(GtE|LtE)|GtE_(Gt|Lt)|Is_IsNot|IsNot_Is)"
    r"|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Mul|BitOr_BitAnd|BitAnd_BitOr|LShift_RShift)"
    r"|ReplaceUnaryOperator_Delete_.*|ReplaceUnaryOperator_USub_UAdd|AddNot|ReplaceAndWithOr|ReplaceOrWithAnd"
    r"|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceBreakWithContinue|ReplaceContinueWithBreak"
    r"|ExceptionReplacer|NumberReplacer|RemoveDecorator|ZeroIterationForLoop"
)


class Change(NamedTuple):
    """One change that was made: the line as it was and as it became, and whether a test noticed."""

    file: str
    number: int
    old: str
    new: str
    noticed: bool

    @property
    def reason(self) -> str:
        """Why nobody needs to notice it; "": that is not known."""
        return SURVIVORS.get(self.file, {}).get(self.new, "")


def main() -> int:
    parser = argparse.ArgumentParser(description="Change what must not fail; a unit test has to notice each change.")
    parser.add_argument("word", nargs="?", default="", help="only subjects with this word, or modules of them")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="subjects at a time")
    options = parser.parse_args()
    chosen = {name: chosen for name, subject in SUBJECTS.items() if (chosen := narrowed(name, subject, options.word))}
    REPORTS.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(min(options.jobs, len(chosen))):
            copies.put(copy_tree(Path(folder) / str(number)))
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            runs = [pool.submit(run, name, subject, copies) for name, subject in chosen.items()]
            changes = [change for each in runs for change in each.result()]
    lines, is_right = report(changes)
    lines.append(f"{time.monotonic() - began:.0f} s")
    text = "\n".join(lines) + "\n"
    (REPORTS / "report.txt").write_text(text)
    print(text, end="")
    return 0 if is_right and changes else 1


def narrowed(name: str, subject: Subject, word: str) -> Subject | None:
    """Return a subject whose name has a word, or with the modules alone that have it; None: none of both."""
    if word in name:
        return subject
    modules = tuple(each for each in subject.modules if word in each)
    return subject._replace(modules=modules) if modules else None


def run(name: str, subject: Subject, copies: queue.Queue[Path]) -> list[Change]:
    """Make all changes of a subject in a copy, one after the other."""
    copy = copies.get()
    began = time.monotonic()
    try:
        with warm_pytest(name, subject, copy) as command:
            made = make_changes(name, subject, command, copy)
            if status := subprocess.run(command.split(), check=False, capture_output=True).returncode:
                why = f"without a change, the tests of {name} end with {status} now (124: too late, the machine is too busy)"
                raise RuntimeError(f"{why}: nobody knows which changes they noticed")
    finally:
        copies.put(copy)
    print(f"{name}: {len(made)} changes, {time.monotonic() - began:.0f} s", flush=True)
    return made


class warm_pytest:  # noqa: N801 - a context manager
    """Keeps a pytest ready for the tests of a subject, and gives the command that runs them."""

    def __init__(self, name: str, subject: Subject, copy: Path) -> None:
        self._socket = copy / f"{name}.socket"
        words = [*subject.tests, "-q", "-x", "--tb=line", "-p", "no:cacheprovider", "-p", "pytest_timeout"]
        program = [sys.executable, "tests/mutation/warm_pytest.py", str(self._socket), str(LONGEST_SECONDS), *words]
        self._process = subprocess.Popen(program, cwd=copy, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> str:
        assert self._process.stdout
        if not (said := self._process.stdout.readline()).startswith("0\n"):
            raise RuntimeError(f"the tests fail without a change: {said}{self._process.stdout.read()}")
        return f"{sys.executable} -S -E {HERE / 'tests/mutation/ask.py'} {self._socket}"

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()


def make_changes(name: str, subject: Subject, command: str, copy: Path) -> list[Change]:
    config, session = REPORTS / f"{name}.toml", REPORTS / f"{name}.sqlite"
    session.unlink(missing_ok=True)
    config.write_text(
        "[cosmic-ray]\n"
        f"module-path = {json.dumps(subject.modules)}\n"
        f"timeout = {2 * LONGEST_SECONDS}\n"
        "excluded-modules = []\n"
        f"test-command = {json.dumps(command)}\n"
        "[cosmic-ray.distributor]\n"
        'name = "local"\n'
    )

    def tool(*words: str | Path) -> str:
        done = subprocess.run([TOOL / words[0], *words[1:]], cwd=copy, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{words} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    tool("cosmic-ray", "init", config, session)
    tool("python", "-m", "tests.mutation.skip", session, OPERATORS)
    tool("cosmic-ray", "exec", config, session)
    return [*changes_in(tool("cosmic-ray", "dump", session))]


def changes_in(dump: str) -> Iterator[Change]:
    """Yield what `cosmic-ray dump` says of the changes that were made."""
    for work, result in map(json.loads, dump.splitlines()):
        if result is None or result["worker_outcome"] == "skipped":
            continue
        if result["worker_outcome"] != "normal":
            raise RuntimeError(f"{work}: {result}")
        yield _change(work["mutations"][0], result)


def _change(mutation: dict[str, Any], result: dict[str, Any]) -> Change:
    diff = [line for line in result["diff"].splitlines() if not line.startswith(("---", "+++"))]
    [old, *_] = [line[1:].strip() for line in diff if line.startswith("-")] or [""]
    [new, *_] = [line[1:].strip() for line in diff if line.startswith("+")] or [f"without {old}"]
    return Change(mutation["module_path"], mutation["start_pos"][0], old, new, result["test_outcome"] == "killed")


def report(changes: list[Change]) -> tuple[list[str], bool]:
    """Return what a person reads, and whether all is well."""
    made = Counter(change.file for change in changes)
    noticed = Counter(change.file for change in changes if change.noticed)
    unlisted = [change for change in changes if not change.noticed and not change.reason]
    low = [file for file in made if 100 * noticed[file] / made[file] < LEAST_SCORE]
    lines = [f"{100 * noticed[file] / made[file]:5.1f} %  {noticed[file]:4} of {made[file]:4}  {file}" for file in made]
    total = sum(made.values())
    lines.append(f"{100 * sum(noticed.values()) / max(total, 1):5.1f} %  {sum(noticed.values()):4} of {total:4}")
    for change in changes:
        if not change.noticed:
            lines += [f"{change.file}:{change.number}: {change.reason or 'NOT NOTICED'}"]
            lines += [f"    - {change.old}", f"    + {change.new}"]
    lines += [f"{file}: listed in survivors.py, and noticed now: {new}" for file, new in _stale(changes)]
    lines += [f"{file}: below {LEAST_SCORE:g} %" for file in low]
    lines.append(f"{len(unlisted)} changes were not noticed, and are not in tests/mutation/survivors.py")
    return lines, not unlisted and not low


def _stale(changes: list[Change]) -> Iterator[tuple[str, str]]:
    survived = {(change.file, change.new) for change in changes if not change.noticed}
    for file in sorted({change.file for change in changes}):
        yield from ((file, new) for new in SURVIVORS.get(file, {}) if (file, new) not in survived)


if __name__ == "__main__":
    sys.exit(main())
