# SPDX-License-Identifier: AGPL-3.0-or-later
"""What must not fail, by subject: the modules that are mutated, and the unit tests that have to notice."""

from __future__ import annotations

from typing import NamedTuple


class Subject(NamedTuple):
    """Modules and the tests of their subject, the most telling first: a run ends at the first that fails."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


COMMON = "tests/common/unit/test_"
PURGE = "tests/purge_old_studies/unit/test_"
AUDIT = "tests/audit_log/unit/test_"


def _tests(prefix: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{name}.py" for name in names)


SUBJECTS: dict[str, Subject] = {
    "parameters": Subject(("src/common/parameters.py",), _tests(COMMON, "parameters")),
    "conditions": Subject(("src/purge_old_studies/conditions.py",), _tests(PURGE, "conditions")),
    "audit_chain": Subject(
        ("src/audit_log/lines.py", "src/audit_log/writer.py", "src/audit_log/verification.py"),
        _tests(AUDIT, "chain", "guards"),
    ),
}
