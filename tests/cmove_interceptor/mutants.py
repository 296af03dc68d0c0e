# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/cmove_interceptor/records.py", "tests/cmove_interceptor/unit/test_newest_first.py"): {
        "ORDER BY id DESC LIMIT": "ORDER BY id LIMIT",
        "WHERE id>? AND id<? {where}": "WHERE id>? AND id<=? {where}",
    },
    ("src/cmove_interceptor/archive.py", "tests/cmove_interceptor/unit/test_guards.py"): {
        'if normalized(each["MainDicomTags"].get(tag, "")) == normalized(token)': "if True",
        'if not token or re.search(r"[*?]", token):': "if not token:",
        "if not token or re": "if re",
    },
    ("src/cmove_interceptor/interceptor.py", "tests/cmove_interceptor/unit/test_guards.py"): {
        "if self._jobs.stopping.is_set():  # a job": "if False:  # a job",
        "> SILENT_SECONDS:": "> 1e9:",
        "self.notifier.required.ask(move.values())": "pass",
        "more = self._ledger.forget_finished(days)": "more = False",
        "more |= self.records.forget(days)": "pass",
    },
    ("src/cmove_interceptor/interceptor.py", "tests/cmove_interceptor/unit/test_fetched.py"): {
        "self._remove_fetched(move)\n            move.error": "move.error",
        "except LoopbackError as error:  # the move": "except KeyError as error:  # the move",
        "self._ends.flush()": "pass",
    },
    ("src/cmove_interceptor/under_way.py", "tests/cmove_interceptor/test_fetched.py"): {
        "if move.fetched and other in self._moves:": "if False:",
        "other.fetched = _together(other.fetched, Fetched(sorted(came & meant), copied & meant))": "pass",
    },
    ("src/cmove_interceptor/fetcher.py", "tests/cmove_interceptor/unit/test_fetched.py"): {
        'if each in fetched.copied or self._aets.key(senders.get(each, "")) in aets': "",
        " if is_about(each, tag, fields[tag])}": "}",
        "or not text.strip():": ":",
        "comparison.has_more(fields_of(answer, fields, tag), answer)": "comparison.has_more(fields, answer)",
    },
    ("src/cmove_interceptor/delivery.py", "tests/cmove_interceptor/unit/test_guards.py"): {
        "self._has_unsettled = True": "pass",
    },
    ("src/cmove_interceptor/jobs.py", "tests/cmove_interceptor/unit/test_guards.py"): {
        'if self._aets.same(entry["AET"], aet):': 'if entry["AET"] == aet:',
    },
    ("src/cmove_interceptor/interceptor.py", "tests/cmove_interceptor/unit/test_resumed.py"): {
        "            self.slots.give_back()\n": "            pass\n",
    },
    ("src/cmove_interceptor/slots.py", "tests/cmove_interceptor/unit/test_slots.py"): {
        "                    return False  # the next look": "                    pass  # the next look",
        'if row["job"] not in self._of_persons:': "if True:",
        "max(len(held) - len(self._served), free)": "len(held) - len(self._served)",
        "if (begun := time.monotonic()) < self._next_count:": "if not (begun := time.monotonic()):",
        'ON_THEIR_WAY = ("Pending", "Running", "Retry")': 'ON_THEIR_WAY = ("Pending", "Running")',
        "if len(running) >= self._concurrent_jobs:": "if True:",
        "if job in self._of_persons or (known": "if (known",
        'self._ledger.run("INSERT OR IGNORE INTO paused_jobs VALUES(?)", job)': "pass",
        "if surplus > 0 and self._resume(job):": "if self._resume(job):",
        'if found and found["State"] == "Running" and known.is_asked:': "if False:",
        "known.resumed = time.monotonic()": "self._leave(job)",
        'return job["Type"] in STORE_JOBS and': "return",
        ' and job["Priority"] < PRIORITY': "",
        "self._leave(job)\n                self._of_persons": "self._of_persons",
        "with contextlib.suppress(LoopbackError, sqlite3.Error, OSError):  # what": "with contextlib.suppress(LoopbackError):  # what",
        "begun + LISTING_SHARE * (time.monotonic() - begun)": "0",
        'self._ledger.run("DELETE FROM paused_jobs WHERE job=?", row["job"])': "pass",
    },
    ("src/cmove_interceptor/sending.py", "tests/cmove_interceptor/unit/test_slots.py"): {
        "waiting[: max(0, self._associations - len(running) + len(waiting))]": "waiting",
        "self._make_room(move, seen)\n": "pass\n",
        "part.waits and part.job in seen]": "part.waits]",
    },
    ("src/cmove_interceptor/fetcher.py", "tests/cmove_interceptor/unit/test_slots.py"): {
        "self._slots.make_room(job)": "pass",
    },
    ("src/cmove_interceptor/comparison.py", "tests/cmove_interceptor/unit/test_comparison.py"): {
        "if not here or (number": "if (number",
        "return number is None\n": "return False\n",
        "return number is None or": "return number is not None and",
        "<= here": "<= here or True",
        "self._gives_uids = False  # nor": "pass  # nor",
        "if not all(wanted.values()):": "if False:",
        "if all(is_about(each, *one) for one in wanted.items()) and": "if",
        "and each.get(tag)]": "]",
        "for tag, text in answer.items() if text}": "for tag, text in answer.items()}",
        "if self._name not in self._said:": "if True:",
    },
    ("src/cmove_interceptor/move_request.py", "tests/cmove_interceptor/unit/test_guards.py"): {
        ' and fields["Level"] != "PATIENT":': ":",
        'if not fields[tag] and fields["Level"] != "PATIENT":': "if False:",
    },
    ("src/cmove_interceptor/modes.py", "tests/cmove_interceptor/unit/test_guards.py"): {
        "all(matches_pattern(value, pattern) for value": "any(matches_pattern(value, pattern) for value",
    },
    ("src/cmove_interceptor/fetcher.py", "tests/cmove_interceptor/unit/test_ae_titles.py"): {
        'self._aets.key(senders.get(each, "")) in aets': 'senders.get(each, "").upper() in {aet.upper() for aet in aets}',
    },
    ("src/cmove_interceptor/interceptor.py", "tests/cmove_interceptor/unit/test_ae_titles.py"): {
        "mode_of(fields, self._settings, self._aets)": "mode_of(fields, self._settings)",
    },
    ("src/cmove_interceptor/modes.py", "tests/cmove_interceptor/unit/test_ae_titles.py"): {
        'aets.matches_any(fields["TargetAET"], rule.target_aets)': 'fields["TargetAET"] in rule.target_aets',
        'aets.matches_any(fields["OriginatorAET"], rule.originator_aets)': 'fields["OriginatorAET"] in rule.originator_aets',
    },
}
