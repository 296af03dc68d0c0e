# SPDX-License-Identifier: AGPL-3.0-or-later
"""`make mutate-wide` fails for what no test notices and nobody has given a reason for; its lists name what is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mutants import HERE
from tests.mutation import __main__ as mutation
from tests.mutation.annotations import annotations_of
from tests.mutation.subjects import SUBJECTS
from tests.mutation.survivors import SURVIVORS

FILE = "src/common/ledger.py"


def changes(noticed: int, *survivors: str) -> list[mutation.Change]:
    made = [mutation.Change(FILE, number, "a", f"b{number}", True) for number in range(noticed)]
    return made + [mutation.Change(FILE, 9, "if a:", new, False) for new in survivors]


def test_what_nobody_notices_fails_unless_it_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation, "SURVIVORS", {FILE: {"if not a:": "it is the same"}})
    assert mutation.report(changes(9, "if not a:"))[1] is True
    lines, is_right = mutation.report(changes(9, "if b:"))
    assert not is_right
    assert f"{FILE}:9: NOT NOTICED" in lines
    assert "    + if b:" in lines
    assert f"{FILE}: listed in survivors.py, and noticed now: if not a:" in lines


def test_a_module_of_which_too_little_is_noticed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation, "SURVIVORS", {FILE: {"if not a:": "it is the same"}})
    lines, is_right = mutation.report(changes(8, "if not a:"))
    assert not is_right
    assert f"{FILE}: below 90 %" in lines


def test_the_tool_s_words_are_read_and_what_was_skipped_does_not_count(tmp_path: Path) -> None:
    where = {"module_path": FILE, "start_pos": [7, 3], "operator_name": "core/AddNot"}
    diff = "--- mutation diff ---\n--- a\n+++ b\n@@ -1 +1 @@\n     x\n-    if a:\n+    if not a:\n"
    results = [
        {"worker_outcome": "normal", "test_outcome": "survived", "diff": diff},
        {"worker_outcome": "normal", "test_outcome": "killed", "diff": "--- a\n+++ b\n-    @one\n"},
        {"worker_outcome": "skipped"},
        None,
    ]
    dump = "\n".join(json.dumps([{"mutations": [where]}, result]) for result in results)
    assert [*mutation.changes_in(dump)] == [
        mutation.Change(FILE, 7, "if a:", "if not a:", False),
        mutation.Change(FILE, 7, "@one", "without @one", True),
    ]
    broken = json.dumps([{"mutations": [where]}, {"worker_outcome": "exception"}])
    with pytest.raises(RuntimeError, match="exception"):
        [*mutation.changes_in(broken)]


def test_annotations_are_known_and_what_runs_is_not_taken_for_one() -> None:
    lines = [
        "def f(a: int | None = 1 | 2, *b: x | y, c: p | q = 5 | 6) -> str | None:",
        "    d: int | str = 3 | 4",
        "    return a | d",
    ]
    found = annotations_of("\n".join(lines))
    pipes = [(row, column) for row, line in enumerate(lines, 1) for column, mark in enumerate(line) if mark == "|"]
    inside = [place for place in pipes if any(first <= place < last for first, last in found)]
    assert [place for place in pipes if place not in inside] == [
        (1, lines[0].index("1 | 2") + 2),
        (1, lines[0].index("5 | 6") + 2),
        (2, lines[1].index("3 | 4") + 2),
        (3, lines[2].index("|")),
    ]


def test_what_is_listed_is_there() -> None:
    modules = [module for subject in SUBJECTS.values() for module in subject.modules]
    assert len(modules) == len({*modules})
    assert [each for each in modules if not (HERE / each).is_file()] == []
    tests = [test for subject in SUBJECTS.values() for test in subject.tests]
    assert [each for each in tests if not (HERE / each).is_file() or "/unit/" not in each] == []
    assert SURVIVORS.keys() <= {*modules}
    assert [reason for reasons in SURVIVORS.values() for reason in reasons.values() if len(reason) < 10] == []


def test_a_word_chooses_a_subject_or_single_modules() -> None:
    chain = SUBJECTS["audit_chain"]
    assert mutation.narrowed("audit_chain", chain, "chain") == chain
    chosen = mutation.narrowed("audit_chain", chain, "verif")
    assert chosen is not None
    assert chosen.modules == ("src/audit_log/verification.py",)
    assert mutation.narrowed("audit_chain", chain, "ledger") is None
