# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/common/cross_site.py", "tests/purge_old_studies/unit/test_guards.py"): {
        "if ahead := next((name for name in AHEAD_OF_TIME if name in headers), None):": 'if ahead := "":',
    },
    ("src/common/undelivered.py", "tests/purge_old_studies/unit/test_undelivered.py"): {
        "owed is None or not owed.isdisjoint((study, patient))": "owed and study in owed",
        "NOT_FOUND and name not in self._loaded():": "NOT_FOUND:",
        "            return None, f": "            return set(), f",
        " and patiently and script not in": " and False and script not in",
        "                self._unavailable.add(script)\n": "",
        "            self._unavailable.discard(script)\n": "",
        "if self._all_answer() or stopping": "if True or stopping",
    },
    ("src/purge_old_studies/archive.py", "tests/purge_old_studies/unit/test_undelivered.py"): {
        "SCRIPTS_THAT_OWE if settings.keep_undelivered else ()": "SCRIPTS_THAT_OWE",
    },
    ("src/purge_old_studies/purge.py", "tests/purge_old_studies/unit/test_undelivered.py"): {
        " or others.get(study.id)\n": "\n",
        "if time.monotonic() - looked_at > STALE:  # the": "if False:  # the",
        'study = self._look([row]).get(row["study"])  # the question': "pass  # the question",
    },
    ("src/purge_old_studies/elsewhere.py", "tests/purge_old_studies/unit/test_elsewhere.py"): {
        "if (number := len(some.keys() - proved))}": "if (number := len(some.keys() - proved)) == len(some)}",
        'if destination.kind != "modality" or self._proof == "C-FIND":': "if True:",
        'if self._proof == "StorageCommitment":  # first': "if False:  # first",
    },
    ("src/purge_old_studies/elsewhere.py", "tests/purge_old_studies/unit/test_elsewhere_changed.py"): {
        "if not some or not all(": "if not all(",
        'or not all(one["FileUuid"] for one in some.values())': "",
    },
    ("src/purge_old_studies/elsewhere.py", "tests/purge_old_studies/unit/test_elsewhere_names.py"): {
        "if len(fitting) == 1:": "if fitting:",
        'f"{key}: {what}, allowed:': 'f"OnlyIfAt: {what}, allowed:',
        'get("OverwriteInstances", False) not in (False, "Never"):': 'get("OverwriteInstances", False) == "x":',
        " | self.servers.configured": "",
        "except Refused as refused:  # since": "except KeyError as refused:  # since",
    },
    ("src/purge_old_studies/elsewhere.py", "tests/purge_old_studies/unit/test_elsewhere_silent.py"): {
        "if len(content) == 1 or is_halted():": "if True:",
        "if self._failures[destination] >= FAILURES_IN_A_ROW:": "if False:",
        "self._failures[destination] = FAILURES_IN_A_ROW  # to": "pass  # to",
        "        self._failures[destination] = 0\n        self._elsewhere.note_answer": "        self._elsewhere.note_answer",
        "            self._elsewhere.raise_if_orthanc_is_silent()\n": "            pass\n",
    },
    ("src/purge_old_studies/elsewhere.py", "tests/purge_old_studies/unit/test_elsewhere_space.py"): {
        "set() if self._failures[destination] else content.keys()": "content.keys()",
        "self._lacking |= missing.keys()": "pass",
        "hash((study.id, study.received, ": "hash((study.id, ",
        " and time.monotonic() - at < LACKING_SECONDS": "",
    },
    ("src/purge_old_studies/purge.py", "tests/purge_old_studies/unit/test_elsewhere.py"): {
        "if self._asked.only_if_at:": "if False:",
        "protection, {**unproved, **undelivered}):": "protection, undelivered):",
        "outcome.setdefault(state, []).extend(of_it)": "outcome[state] = of_it",
    },
    ("src/purge_old_studies/purge.py", "tests/purge_old_studies/unit/test_elsewhere_changed.py"): {
        "study, {}, {**unproved, **undelivered})": "study, {}, undelivered)",
        'not in there],\n            "failed" if error': 'or True],\n            "failed" if error',
    },
    ("src/purge_old_studies/purge.py", "tests/purge_old_studies/unit/test_elsewhere_silent.py"): {
        "        if self._halted():\n            return {}": "        if False:\n            return {}",
    },
    ("src/purge_old_studies/archive.py", "tests/purge_old_studies/unit/test_elsewhere_names.py"): {
        "        self.elsewhere.destinations(asked.only_if_at)\n": "",
    },
    ("src/purge_old_studies/archive.py", "tests/purge_old_studies/unit/test_elsewhere_space.py"): {
        "if not self.elsewhere.has_lacked(study, asked)]": "]",
    },
    ("src/purge_old_studies/conditions.py", "tests/purge_old_studies/unit/test_elsewhere_changed.py"): {
        '("labels", "only_if_at")}': '("labels",)}',
    },
    ("src/purge_old_studies/guards.py", "tests/purge_old_studies/unit/test_elsewhere_names.py"): {
        "lines = wrong_destinations(settings, archive.elsewhere)": "lines = list[str]()",
    },
    ("src/purge_old_studies/space.py", "tests/purge_old_studies/unit/test_elsewhere_space.py"): {
        "if why := self._archive.elsewhere.why_silent(plan.asked.only_if_at):": 'if why := "":',
    },
    ("src/purge_old_studies/settings.py", "tests/purge_old_studies/unit/test_elsewhere_names.py"): {
        "if rule.proof != Rule().proof and not rule.only_if_at:": "if False:",
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
    ("src/common/line_index.py", "tests/purge_old_studies/unit/test_record.py"): {
        "or found.st_size < self._end:": "or False:",
        'if not line.endswith(b"\\n"):': "if False:",
    },
    ("src/purge_old_studies/history.py", "tests/purge_old_studies/unit/test_record.py"): {
        "key not in block.summary": "False",
        "                self._index.forget()  # it may have seen lines that were cut off again\n": "",
    },
    ("src/purge_old_studies/last_runs.py", "tests/purge_old_studies/unit/test_record.py"): {
        'self._put(rule, None, {"State": "not run", "Reason": reason})': "pass",
    },
    ("src/purge_old_studies/space.py", "tests/purge_old_studies/unit/test_space.py"): {
        "if most and not reading.doubt else": "if most else",
        "received_until=received_until(self._settings.keep_received_days, reading.earliest),": "received_until='',",
        "most = min(most, settings.max_studies - gone)": "most = min(most, settings.max_studies)",
        "most = min(most, by_percent, int(": "most = min(most, int(",
        "if above.is_percent and self._archive.index.is_elsewhere:": "if False:",
        "if rule.name not in self._stuck:": "if True:",
    },
    ("src/purge_old_studies/archive.py", "tests/purge_old_studies/unit/test_space.py"): {
        "if len(found) < most and total < size and": "if total < size and",
        "< most and total < size and sizes": "< most and sizes",
        "in_order(self._meant(asked), asked), list": "self._meant(asked), list",
    },
    ("src/common/file_system.py", "tests/purge_old_studies/unit/test_space.py"): {
        "used, used + found.f_bavail * found.f_frsize": "used, found.f_blocks * found.f_frsize",
    },
    ("src/purge_old_studies/archive.py", "tests/purge_old_studies/unit/test_wrong_measures.py"): {
        " and sizes.get(study.id):": ":",
    },
    ("src/purge_old_studies/index.py", "tests/purge_old_studies/unit/test_wrong_measures.py"): {
        'study_of.get(instance["ParentSeries"])) in sizes:': 'study_of.get(instance["ParentSeries"], min(sizes))) in sizes:',
    },
    ("src/purge_old_studies/disk.py", "tests/purge_old_studies/unit/test_wrong_measures.py"): {
        "if self.used + LITTLE < self.archive * LEAST_SHARE:": "if False:",
        "self.archive * LEAST_SHARE:": "self.archive:",
        "if before and gone > LITTLE:": "if False:",
        " - (self.archive - before.archive)": " - (before.archive - before.archive)",
        "gone - by_others < gone * LEAST_SHARE:": "gone - by_others < 0:",
        "if found.identity != self._identity:": "if False:",
    },
    ("src/purge_old_studies/space.py", "tests/purge_old_studies/unit/test_wrong_measures.py"): {
        "        self._note_what_went(rule, plan)\n": "",
        "                self._before.pop(rule.name, None)\n": "",
    },
    ("src/purge_old_studies/guards.py", "tests/purge_old_studies/unit/test_space.py"): {
        "if settings.keep_labels and not has_labels:": "if False:",
    },
    ("src/purge_old_studies/settings.py", "tests/purge_old_studies/unit/test_space.py"): {
        "or down_to.amount >= above.amount:": "or False:",
        "if rule.undated is True:": "if False:",
    },
    ("src/purge_old_studies/elsewhere.py", "tests/purge_old_studies/unit/test_elsewhere_turns.py"): {
        "hash((study.id, study.received, tuple(names), proof))": "hash((study.id, study.received, proof))",
        "study.received, tuple(names), proof))": "study.received, tuple(names)))",
        "return sorted(studies, key=lambda study: at[study.id])": "return [*studies]",
    },
    ("src/purge_old_studies/archive.py", "tests/purge_old_studies/unit/test_elsewhere_turns.py"): {
        "meant, reasons = self.elsewhere.in_turn(left, asked), +reasons": "meant, reasons = left, +reasons",
        "ordered = self.elsewhere.in_turn(ordered, asked)[: asked.limit]": "ordered = ordered[: asked.limit]",
    },
    ("src/forwarding/node_proof.py", "tests/forwarding/unit/test_proofs_asked_here.py"): {
        "    _raise_if_asked_here(loopback, name, transaction)\n": "",
        ' and job["Content"].get("TransactionUid") == transaction:': ":",
    },
}
