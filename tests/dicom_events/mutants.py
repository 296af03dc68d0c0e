# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/dicom_events/routes.py", "tests/dicom_events/unit/test_turns.py"): {
        "with self._turns.turn():\n            studies": "if True:\n            studies",
        "with self._turns.turn():\n            return": "if True:\n            return",
    },
    ("src/dicom_events/catch_up.py", "tests/dicom_events/unit/test_catch_up.py"): {
        "own = min(made, self._outbox": "own = min(2**40, self._outbox",
        "if not made:": "if False:",
        "> MOST_WAITING": "> 2**62",
        "if self._tries < TRIES:": "if True:",
        "self._outbox.ledger.set_value(CAUGHT_UP_SINCE": "(lambda *_: None)(CAUGHT_UP_SINCE",
    },
    ("src/common/catch_up.py", "tests/dicom_events/unit/test_catch_up.py"): {
        'if each["Seq"] <= span.end]': "]",
    },
    ("src/dicom_events/events.py", "tests/dicom_events/unit/test_guards.py"): {
        'value.decode("ascii").strip("\\0 ") for': 'value.decode("latin-1").strip("\\0 ") for',
    },
    ("src/dicom_events/journal.py", "tests/dicom_events/unit/test_guards.py"): {
        "if self._read_to < self._end:\n                return": "if False:\n                return",
        "AppendOnly(path, synced=full)": "AppendOnly(path, synced=full, keep_torn=True)",
    },
    ("src/dicom_events/letters.py", "tests/dicom_events/unit/test_guards.py"): {
        # (k)
        " OR l.next_attempt>?)": " OR l.next_attempt>?+9e9)",
        "AND o.event<l.event)": "AND 0)",
    },
    ("src/dicom_events/outbox.py", "tests/dicom_events/unit/test_guards.py"): {
        "AND row<{barrier} ORDER": "ORDER",
        "self._newest, self.added, self.pending = before\n                raise": "raise",
    },
    ("src/dicom_events/retention.py", "tests/dicom_events/unit/test_guards.py"): {
        'AND NOT EXISTS (SELECT 1 FROM letter WHERE event=row)"': '"',
    },
    ("src/dicom_events/retention.py", "tests/dicom_events/unit/test_bounds.py"): {
        "self._swept_to = lowest": "pass",
        "0 if drops != self._drops_seen else": "",
        "INDEX_BY_TIME if bounds.oldest_seconds else": '"DROP INDEX IF EXISTS event_by_time" if bounds.oldest_seconds else',
    },
    ("src/dicom_events/letters.py", "tests/dicom_events/unit/test_bounds.py"): {
        "(broker,))\n            self._free(row)": "(broker,))",
        "                self._free(row)": "                pass",
    },
    ("src/dicom_events/delivery.py", "tests/dicom_events/unit/test_bounds.py"): {
        "self._outbox.ledger.check()  # what": "pass  # what",
        "if not self._outbox.letters.is_waiting(self._name, event.key):": "if event.key not in self._outbox.letters.keys(self._name):",
    },
    ("src/dicom_events/service.py", "tests/dicom_events/unit/test_bounds.py"): {
        "if not is_taken:": "if False:",
    },
    ("src/dicom_events/replay.py", "tests/dicom_events/unit/test_bounds.py"): {
        "while len(self._outbox.incomplete(MOST_INCOMPLETE)) >= MOST_INCOMPLETE:": "while False:",
    },
    ("src/dicom_events/brokers/lines.py", "tests/dicom_events/unit/test_bounds.py"): {
        "if not self._file.is_at_its_path():": "if False:",
    },
    ("src/dicom_events/missed.py", "tests/dicom_events/unit/test_missed.py"): {
        "while len(self._suspects) < MOST_SUSPECTS:": "while True:",
        "return not self._archive.exists(": "return True or self._archive.exists(",
        "return False\n\n    def make_up_stable": "return True\n\n    def make_up_stable",
    },
    ("src/dicom_events/places.py", "tests/dicom_events/unit/test_guards.py"): {
        "newest if known else 0)": "0)",
    },
    ("src/dicom_events/unroutable.py", "tests/dicom_events/unit/test_unroutable.py"): {
        "if self._absences.pop(kind, None):": "if self._absences.pop(kind, None) and False:",
        "absence.look_at = now + RETRY.delay(absence.found)": "absence.look_at = now + 1",
        "if self._absences and not self.keeps:": "if False:",
        "self._letters.let_unroutable_wait(self._name, key)": "pass",
    },
    ("src/dicom_events/delivery.py", "tests/dicom_events/unit/test_unroutable.py"): {
        "if event.key in self._unroutable.keys and not self._unroutable.holds(event):": "if False:",
    },
    ("src/dicom_events/health.py", "tests/dicom_events/unit/test_unroutable.py"): {
        " and time.monotonic() >= self._say_kept_at": "",
    },
    ("src/dicom_events/opening.py", "tests/dicom_events/unit/test_opening.py"): {
        "            pipeline.intake.take_early(self._early)\n": "            pass\n",
        "OPENS_WITHIN_SECONDS if len(self._early) else STOP_WITHIN_SECONDS": "0",
    },
    ("src/dicom_events/reports.py", "tests/dicom_events/unit/test_opening.py"): {
        "if self._bytes + len(text) > MOST_EARLY_BYTES:": "if False:",
    },
    ("src/dicom_events/publisher.py", "tests/dicom_events/unit/test_lines_of_a_broker.py"): {
        "if outcomes or not busy:": "if True:",
    },
    ("src/dicom_events/health.py", "tests/dicom_events/unit/test_lines_of_a_broker.py"): {
        "if len(said) == AWAY_LINES and now - said[0] < AWAY_LINES_WITHIN_SECONDS:": "if False:",
    },
    ("src/dicom_events/brokers/rabbitmq.py", "tests/dicom_events/unit/test_settings_of_unroutable.py"): {
        "if _message_id(event) not in self._returned:": "if True:",
    },
    ("src/dicom_events/named.py", "tests/dicom_events/unit/test_settings_of_unroutable.py"): {
        "if general.type not in RETURNING and": "if False and",
    },
}
