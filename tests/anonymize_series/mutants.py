# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/anonymize_series/anonymizing.py", "tests/anonymize_series/unit/test_guards.py"): {
        "self._register.study_of_copy(study_uid) is not None or": "False or",
    },
    ("src/anonymize_series/attempts.py", "tests/anonymize_series/unit/test_dropped.py"): {
        'if not self._work.claim(row["id"]):': 'if self._ledger.start(row["id"]):',
    },
    ("src/anonymize_series/checks.py", "tests/anonymize_series/unit/test_guards.py"): {
        # (c)
        "if needle in text or encoded in data:": "if needle in text:",
        'if burned != "NO" and PRONE': "if burned and PRONE",
    },
    ("src/anonymize_series/checks.py", "tests/anonymize_series/unit/test_basic_profile.py"): {
        "        if is_dummy(element):\n": "        if False:\n",
    },
    ("src/anonymize_series/copies.py", "tests/anonymize_series/unit/test_basic_profile.py"): {
        "    apply_profile(copy, original, recipe)\n": "",
    },
    ("src/anonymize_series/basic_profile.py", "tests/anonymize_series/unit/test_basic_profile.py"): {
        "copy.pop(tag, None)": "pass",
        "self.protect(item, before[number]": "(item, before[number]",
        "if int(tag) not in self._removed:": "if True:",
        "None if int(tag) in self._kept | others else": "None if int(tag) in others else",
        "replaced | PATIENT)": "PATIENT)",
        "if source.is_empty:": "if False:",
        "else self._dummy(element))": "else element.value)",
        'return "D" if "D" in action else "Z"': "return action[0]",
    },
    ("src/anonymize_series/sending.py", "tests/anonymize_series/unit/test_guards.py"): {
        'why = why_not_all(job, data["Copies"])': 'why = ""',
    },
    ("src/anonymize_series/anonymizer.py", "tests/anonymize_series/unit/test_ae_titles.py"): {
        '"first", matchers, self._aets)': '"first", matchers)',
    },
    ("src/anonymize_series/anonymizer.py", "tests/anonymize_series/unit/test_owed.py"): {
        "return found | self._owing.of(resources)": "return self._owing.of(resources)",
    },
    ("src/anonymize_series/intake.py", "tests/anonymize_series/unit/test_ae_titles.py"): {
        "has_origin(self._settings.results, origin, self._aets)": "has_origin(self._settings.results, origin)",
    },
    ("src/anonymize_series/sending.py", "tests/anonymize_series/test_lost_jobs.py"): {
        'if row["attempts"] > 1 and (lost := ': "if False and (lost := ",
    },
    ("src/anonymize_series/sending.py", "tests/anonymize_series/unit/test_lost_jobs.py"): {
        'and job["ID"] not in taken': "and True",
        'and job["State"] in UNFINISHED_JOBS': "and True",
    },
}
