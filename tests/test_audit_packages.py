# SPDX-License-Identifier: AGPL-3.0-or-later
"""`make audit-packages` fails for what is known, and says what could not be looked up."""

from __future__ import annotations

from typing import Any

import pytest

from tests.audit_packages import verdict

FINE = {"name": "pika", "version": "1.4.4", "vulns": []}
BAD = {"name": "pillow", "version": "9.4", "vulns": [{"id": "PYSEC-1", "fix_versions": ["10.0"]}]}
SKIPPED = {"name": "pillow", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "status", "lines"),
    [
        ([FINE], 0, ["no known vulnerability in 1 packages that were checked"]),
        ([FINE, BAD], 1, ["pillow 9.4: PYSEC-1, mended in 10.0"]),
        (
            [FINE, SKIPPED],
            0,
            [
                "no known vulnerability in 1 packages that were checked",
                "NOT CHECKED: 1 packages: pillow (Dependency not found on PyPI)",
            ],
        ),
    ],
)
def test_what_is_known_fails_and_what_the_database_does_not_know_is_named(
    packages: list[dict[str, Any]], status: int, lines: list[str]
) -> None:
    assert verdict({"dependencies": packages}, "") == (status, lines)


@pytest.mark.parametrize(
    "error", ["ConnectionError: Failed to resolve", "Max retries exceeded", "no answer within 300 seconds"]
)
def test_a_database_that_is_away_is_no_failure_and_is_said(error: str) -> None:
    status, (line,) = verdict(None, f"Traceback\n{error}\n")
    assert status == 0
    assert line.startswith("NOT CHECKED: the database of vulnerabilities can't be reached")


@pytest.mark.parametrize("error", ["", "error: unrecognized arguments: --nonsense"])
def test_a_call_that_is_wrong_is_a_failure(error: str) -> None:
    assert verdict(None, error)[0] == 2
