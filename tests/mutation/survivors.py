# SPDX-License-Identifier: AGPL-3.0-or-later
"""Changes that no unit test notices, and why none has to: by file, the line as the change makes it."""

from __future__ import annotations

SURVIVORS: dict[str, dict[str, str]] = {
    "src/audit_log/writer.py": {
        "self._next_drop, self.wrote_at = -1.0, time.monotonic()": "before any time, as 0 is",
        "self._next_drop, self.wrote_at = 1.0, time.monotonic()": "a second after the machine was started, no log is written yet",
    },
    "src/common/parameters.py": {
        "near = difflib.get_close_matches(name[: 41], taken, 1, 0.6)": "a bound for the time that a hint may take",
        "near = difflib.get_close_matches(name[: 39], taken, 1, 0.6)": "a bound for the time that a hint may take",
        "near = difflib.get_close_matches(name[:40], taken, 2, 0.6)": "the first of them is named, however many there are",
        'hint = f"did you mean {near[ -1]}? " if near else ""': "there is one alone: the first is the last",
    },
    "src/purge_old_studies/conditions.py": {
        "near = difflib.get_close_matches(tag, QUERY_TAGS, 2, 0.6)": "the first of them is named, however many there are",
        """hint = f"did you mean {near[ -1]}?" if near else f"allowed: {', '.join(QUERY_TAGS)}\"""": (
            "there is one alone: the first is the last"
        ),
    },
}
