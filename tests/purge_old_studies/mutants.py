# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/common/cross_site.py", "tests/purge_old_studies/unit/test_guards.py"): {
        "if ahead := next((name for name in AHEAD_OF_TIME if name in headers), None):": 'if ahead := "":',
    },
    ("src/purge_old_studies/undelivered.py", "tests/purge_old_studies/unit/test_undelivered.py"): {
        "owed is None or not owed.isdisjoint((study.id, study.patient))": "owed and study.id in owed",
        "NOT_FOUND and name not in self._loaded():": "NOT_FOUND:",
        "            return None, f": "            return set(), f",
        " and patiently and script not in": " and False and script not in",
        "                self._unavailable.add(script)\n": "",
        "            self._unavailable.discard(script)\n": "",
        "if self._all_answer() or stopping": "if True or stopping",
        "SCRIPTS if keeps else ()": "SCRIPTS",
    },
    ("src/purge_old_studies/purge.py", "tests/purge_old_studies/unit/test_undelivered.py"): {
        " or undelivered.get(study.id)\n": "\n",
        "if time.monotonic() - looked_at > STALE:  # the": "if False:  # the",
        'study = self._look([row]).get(row["study"])  # the question': "pass  # the question",
    },
    ("src/purge_old_studies/studies.py", "tests/purge_old_studies/unit/test_guards.py"): {
        "return fits(study, asked) and not came_lately(study, asked)": "return fits(study, asked)",
    },
    ("src/purge_old_studies/archive.py", "tests/purge_old_studies/unit/test_guards.py"): {
        "if is_protected:\n            return": "if False:\n            return",
    },
    ("src/purge_old_studies/clock.py", "tests/purge_old_studies/unit/test_guards.py"): {
        "if -MAX_BEHIND_SECONDS <= now - expected <= self._max_ahead:": "if True:",
    },
    ("src/purge_old_studies/index.py", "tests/purge_old_studies/unit/test_guards.py"): {
        "if error.args[0] in UNKNOWN_RESOURCE:": "if True:",
    },
    ("src/purge_old_studies/purge.py", "tests/purge_old_studies/unit/test_guards.py"): {
        'if study.received != row["facts"]["LastUpdate"]:': "if False:",
        "if not is_meant(study, self._asked):": "if False:",
    },
    ("src/purge_old_studies/schedule.py", "tests/purge_old_studies/unit/test_guards.py"): {
        # (g)
        'if not self._ledger.run("INSERT OR IGNORE INTO runs VALUES(?,?)", rule.name, f"{today:%Y%m%d}"):': "if False:",
        "if due and ahead > CLOCK_JUMP:": "if False:",
        "if reading.doubt:": "if False:",
    },
}
