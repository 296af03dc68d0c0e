# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: what `tests/mutants.py` makes, one at a time, and a test has to notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes. (a) to (l) are guards that
no test had watched once.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/anonymize_series/anonymizing.py", "tests/unit/test_guard_anonymize_series.py"): {
        "self._register.study_of_copy(study_uid) is not None or": "False or",
    },
    ("src/anonymize_series/checks.py", "tests/unit/test_guard_anonymize_series.py"): {
        # (c)
        "if needle in text or encoded in data:": "if needle in text:",
        'if burned != "NO" and PRONE': "if burned and PRONE",
    },
    ("src/anonymize_series/sending.py", "tests/unit/test_guard_anonymize_series.py"): {
        'if why := why_not_all(job, data["Copies"]):': 'if why := "":',
    },
    ("src/audit_log/recorder.py", "tests/unit/test_guard_audit_log.py"): {
        "if lost := self._inbox.lost:": "if lost := 0:",
    },
    ("src/audit_log/verification.py", "tests/unit/test_guard_audit_log.py"): {
        # (d)
        "if self._first > self._dropped_up_to + 1:": "if False:",
        "if self._newest and self.number < self._newest[0]:": "if False:",
        "elif not hmac.compare_digest(": "elif False and not hmac.compare_digest(",
    },
    ("src/auto_forward_modality.py", "tests/unit/test_guard_proofs.py"): {
        'for one in report["Success"] if': 'for one in (*report["Success"], {"SOPInstanceUID": "1.2"}) if',
        'if report["Status"] == "Pending" and abs(': "if False and abs(",
        "COMMITTED_WITHIN:\n        return None": "COMMITTED_WITHIN * 99:\n        return None",
        "return committed & found_by_patient(loopback, name, instances, ours)": "return committed",
        "(proved if ours and patients == {ours} else strange).add(instance)": "proved.add(instance)",
        "if instance is None or not is_part(place, answer):": "if instance is None:",
    },
    ("src/auto_forward_peer.py", "tests/unit/test_guard_proofs.py"): {
        'if any(one.get("Origin") == "RestApi"': 'if any(False and one.get("Origin") == "RestApi"',
    },
    ("src/auto_retries/freshness.py", "tests/unit/test_guard_auto_retries.py"): {
        # (e)
        "if self._overwrites:": "if False:",
        'addresses == data["Addresses"]': "True",
        'return bool(count == job["Content"].get("InstancesCount"))': "return True",
    },
    ("src/auto_retries/jobs.py", "tests/unit/test_guard_auto_retries.py"): {
        'if job["ErrorCode"] == CANCELED_JOB:': "if False:",
    },
    ("src/auto_retries/recipes.py", "tests/unit/test_guard_auto_retries.py"): {
        "if len({address(known[name]) for name in names}) > 1:": "if False:",
    },
    ("src/cmove_interceptor/archive.py", "tests/unit/test_guard_cmove_interceptor.py"): {
        'if _normalized(each["MainDicomTags"].get(tag, "")) == _normalized(token)': "if True",
        'if re.search(r"[*?]", token):': "if False:",
    },
    ("src/cmove_interceptor/interceptor.py", "tests/unit/test_guard_cmove_interceptor.py"): {
        "self.notifier.required.ask(move.values())": "pass",
    },
    ("src/cmove_interceptor/jobs.py", "tests/unit/test_guard_cmove_interceptor.py"): {
        "or (not self._strict and": "or (",
    },
    ("src/cmove_interceptor/modes.py", "tests/unit/test_guard_cmove_interceptor.py"): {
        "all(matches_pattern(value, pattern) for value": "any(matches_pattern(value, pattern) for value",
    },
    ("src/common/routes.py", "tests/unit/test_routes.py"): {
        "output.SetHttpHeader(one_line(name), one_line(value))": "output.SetHttpHeader(name, value)",
        "KEPT_ALIVE.append(callback)": "pass",
        'if len(body := raw.get("body", b"")) > LARGEST_BODY:': 'if len(body := raw.get("body", b"")) < 0:',
    },
    ("src/common/quirks.py", "tests/unit/test_common_quirks.py"): {
        "except OSError:": "except KeyError:",
        "except TypeError:": "except KeyError:",
        "each.absolute().parent == parent": "True",
    },
    ("src/common/arrivals.py", "tests/unit/test_common_arrivals.py"): {
        "if not all(uid.isascii() for uid in uids):": "if False:",
        ".strip() for tag in UID_TAGS": " for tag in UID_TAGS",
        "self._known.pop(instance, None)\n        self._known[instance]": "self._known[instance]",
    },
    ("src/common/cross_site.py", "tests/unit/test_routes.py"): {
        # (h)
        '*headers.get("x-forwarded-host", "").split(",")]': "]",
        'OWN_PAGES = ("same-origin", "none")': 'OWN_PAGES = ("same-origin", "none", "same-site")',
        "if _is_browser(headers) and (mime": "if False and (mime",
    },
    ("src/common/cross_site.py", "tests/unit/test_guard_purge_old_studies.py"): {
        "if ahead := next((name for name in AHEAD_OF_TIME if name in headers), None):": 'if ahead := "":',
    },
    ("src/common/times.py", "tests/unit/test_common_days.py"): {
        'r"[0-9]{8}"': 'r"\\d{8}"',
        "except ValueError:\n        return None\n\n\ndef parse_time": "except KeyError:\n        return None\n\n\ndef parse_time",
    },
    ("src/common/embedded.py", "tests/unit/test_common_days.py"): {
        ".parent / name": ".parent.parent / name",
    },
    ("src/common/changes.py", "tests/unit/test_common_changes.py"): {
        'self._ledger.run("UPDATE arrived SET seen=? WHERE seen>?", time.time(), time.time())': "pass",
        "limit = 2**62 if before is None else before": "limit = 2**62",
        'if not self._reconcile and change == "NewInstance"': 'if change == "NewInstance"',
        "if last + self._quiet_after > time.time():": "if False:",
        'self._ledger.run("DELETE FROM arrived WHERE instance=?", instance)  # deleted': "raise  # deleted",
        'if change["Date"] < began': 'if change["Date"] <= began',
    },
    ("src/common/changes.py", "tests/unit/test_forwarding_restored_index.py"): {
        'self._ledger.run("UPDATE arrived SET seq=0 WHERE seq>?", place)': "pass",
        "self._set_back(place)\n": "pass\n",
    },
    ("src/common/json_text.py", "tests/unit/test_routes.py"): {
        "if depth > MAX_JSON_DEPTH:": "if False:",
        "if len(found := dict(pairs)) < len(pairs):": "if (found := dict(pairs)) is None:",
    },
    ("src/common/inbox.py", "tests/unit/test_guard_audit_log.py"): {
        "self.lost += 1": "pass",
    },
    ("src/common/ledger.py", "tests/test_common_ledger.py"): {
        "OR next_attempt>?) AND NOT": "OR next_attempt>?+9e9) AND NOT",
        "state IN ('done','gone') AND": "state IN ('done','gone','dead') AND",
    },
    ("src/common/loopback.py", "tests/test_common_loopback.py"): {
        "{path.partition('?')[0]}: {reason}": "{path}: {reason}",
    },
    ("src/common/loopback.py", "tests/unit/test_common_loopback_and_settings.py"): {
        '2 if method != "POST" or path in IDEMPOTENT_POSTS else 1': "2",
    },
    ("src/common/parameters.py", "tests/unit/test_forwarding_deliveries.py"): {
        "if name not in taken:": "if False:",
        "if not isinstance(value, list) or not value or not all(": "if not isinstance(value, list) or not all(",
    },
    ("src/common/place.py", "tests/unit/test_common_changes.py"): {
        # (f)
        "return min(kept, newest)": "return kept",
        # (f)
        "if kept > newest:": "if False:",
    },
    ("src/common/settings.py", "tests/test_common_settings.py"): {
        "(hint is bool) == isinstance(found, bool)": "True",
    },
    ("src/common/settings.py", "tests/unit/test_common_loopback_and_settings.py"): {
        'if limits and limits.get("secret"):': "if False:",
    },
    ("src/common/state.py", "tests/test_common_state.py"): {
        "if stat.S_IMODE(path.stat().st_mode) & OTHERS:": "if False:",
    },
    ("src/common/status.py", "tests/unit/test_status.py"): {
        "WAITING if worker.is_waiting else": "WAITING if False else",
        "MISCONFIGURED if worker.is_off else": "MISCONFIGURED if False else",
        "return self.is_unused or (self.state == RUNNING and self.reason is None)": "return True",
        "self.state == RUNNING and self.reason is None": "self.state == RUNNING",
        "except (sqlite3.OperationalError, OSError) as error:": "except KeyError as error:",
        'return text.partition("\\n")[0]': "return text",
        "if hand_over := getattr(orthanc, HAND_OVER, None):": "if hand_over := None:",
        "if not LISTED_SCRIPTS:": "if True:",
    },
    ("src/common/worker.py", "tests/unit/test_status.py"): {
        "self.trouble.last = reason, time.time()": "pass",
        'self.last = text.partition("\\n")[0], time.time()': "self.last = text, time.time()",
    },
    ("src/common/parameters.py", "tests/unit/test_status.py"): {
        "if name in found:": "if False:",
        "if in_other_style(each) == name": "if False",
    },
    ("src/purge_old_studies/api.py", "tests/unit/test_status_of_scripts.py"): {
        "reason=self._clock.read().doubt or None": "reason=None",
    },
    ("src/dicom_events/pipeline.py", "tests/unit/test_status_of_scripts.py"): {
        "for each in self.publishers if each.complaint]": "for each in self.publishers if False]",
    },
    ("src/common/user_number.py", "tests/unit/test_common_user_number.py"): {
        "if value == number]": "if False]",
        "value[0] if isinstance(value, list) and value else value": "value",
    },
    ("src/common/work.py", "tests/unit/test_work_attempts.py"): {
        '(next_attempt<=? OR next_attempt>?) "': '(next_attempt<=? OR next_attempt>?+9e9) "',
        "WHERE id=? AND state='waiting'\"\n        return bool(self._ledger.run(sql, job": 'WHERE id=?"\n        return bool(self._ledger.run(sql, job',
        "AND state IN ('waiting','sending')\"": '"',
    },
    ("src/dicom_events/events.py", "tests/unit/test_guard_dicom_events.py"): {
        'value.decode("ascii").strip("\\0 ") for': 'value.decode("latin-1").strip("\\0 ") for',
    },
    ("src/dicom_events/journal.py", "tests/unit/test_guard_dicom_events.py"): {
        "if self._read_to < self._end:\n                return": "if False:\n                return",
        "self._end = cut_torn_line(self._file) if self._generation else 0": "self._end = self._file.seek(0, 2)",
    },
    ("src/dicom_events/letters.py", "tests/unit/test_guard_dicom_events.py"): {
        # (k)
        " OR l.next_attempt>?)": " OR l.next_attempt>?+9e9)",
        "AND o.event<l.event)": "AND 0)",
    },
    ("src/dicom_events/outbox.py", "tests/unit/test_guard_dicom_events.py"): {
        "AND row<{barrier} ORDER": "ORDER",
        "self._newest, self.added, self.pending = before\n                raise": "raise",
    },
    ("src/dicom_events/retention.py", "tests/unit/test_guard_dicom_events.py"): {
        'AND NOT EXISTS (SELECT 1 FROM letter WHERE event=row)"': '"',
    },
    ("src/dicom_events/places.py", "tests/unit/test_guard_dicom_events.py"): {
        "newest if known else 0)": "0)",
    },
    ("src/event_dispatcher/calls.py", "tests/test_event_dispatcher.py"): {
        "self.is_over = self.future is not None and not self.future.set_running_or_notify_cancel()": "self.is_over = False",
    },
    ("src/common/work.py", "tests/unit/test_forwarding_forwarder.py"): {
        # (i)
        "state='waiting', attempts=attempts-1, next_attempt=0": "state='waiting', next_attempt=0",
    },
    ("src/forwarding/api.py", "tests/unit/test_forwarding_deliveries.py"): {
        '[state for state in STATES if state != "sending"]': "STATES",
        "if not dry:": "if True:",
        "if name is None or name not in known:": "if False:",
    },
    ("src/forwarding/assignment.py", "tests/unit/test_forwarding_forwarder.py"): {
        "if self._transport.came_from(origin, settings) or": "if",
    },
    ("src/forwarding/backfill.py", "tests/unit/test_forwarding_deliveries.py"): {
        "if day and first <= day <= last]": "if day]",
    },
    ("src/forwarding/deletion.py", "tests/unit/test_forwarding_deletion.py"): {
        # (a)
        "self._stopping.is_set() or is_arriving(self._ledger, self._loopback, some)": "self._stopping.is_set()",
        # (b)
        'states = ("waiting", "sending", "dead")': 'states = ("waiting", "sending", "sending")',
        "elif missing := len(instances.keys() - proved):": "elif missing := 0:",
        "elif any(self._is_protected(patient)": "elif False and any(self._is_protected(patient)",
        '*(json.loads(kept[0]["data"])["Destinations"] if kept else ())': "",
    },
    ("src/forwarding/destinations.py", "tests/unit/test_forwarding_destinations.py"): {
        # (j)
        "self._delay = min(PROBE_LONGEST_SECONDS, self._delay * 2)": "pass",
        "return not self.away or": "return True or",
        "self.away, self.error, self.answered = True, error, False": "self.away, self.error = True, error",
        "self._trial_delay = min(self._longest, self._trial_delay * 2)": "pass",
    },
    ("src/forwarding/dispatcher.py", "tests/unit/test_forwarding_forwarder.py"): {
        "if self._destinations.is_paused(name) or not": "if not",
        "not self._destinations.is_open(name) or": "",
    },
    ("src/forwarding/intake.py", "tests/unit/test_forwarding_restored_index.py"): {
        "self._sent.forget_numbers(place)": "pass",
        'self._ledger.set_value("taken", min(place, self._ledger.get_value("taken")))': "pass",
        "[0 if seq > place else seq, *more]": "[seq, *more]",
    },
    ("src/forwarding/jobs.py", "tests/unit/test_forwarding_forwarder.py"): {
        "self.is_one_in_doubt = True\n                raise": "pass",
        'self.cancel_pending(row["queue"])': "pass",
        "if len(here) == len(resources):\n                raise": "if False:\n                raise",
    },
    ("src/forwarding/peers.py", "tests/unit/test_guard_proofs.py"): {
        '            if status != http.HTTPStatus.OK:\n                raise ValueError(f"{name} answers {status} when': '            if False:\n                raise ValueError(f"{name} answers {status} when',
        "return {key for key, uuid in there.items() if uuid}": "return set(instances)",
    },
    ("src/forwarding/routing.py", "tests/unit/test_forwarding_routing.py"): {
        "if found[-1].matched and self._first_only:": "if found[-1].destinations and self._first_only:",
        "return batch.resource in self._loopback": "return True or self._loopback",
        'not matches_any(batch.uid, wanted.split("\\\\"))': "False",
        "if chosen and isinstance(chosen, str)": "if isinstance(chosen, str)",
    },
    ("src/forwarding/rules.py", "tests/test_common_rules.py"): {
        "(yesterday and now.time() < end)": "(today and now.time() < end)",
        "if tag in below or": "if False or",
    },
    ("src/forwarding/sent_instances.py", "tests/unit/test_forwarding_forwarder.py"): {
        'if given and (given[0]["seq"] >= seq > 0 or': "if given and (False or",
    },
    ("src/forwarding/settings.py", "tests/unit/test_forwarding_forwarder.py"): {
        "if key in RESERVED_STORE_OPTIONS]": 'if key == "Permissive"]',
    },
    ("src/instance_dump.py", "tests/unit/test_guard_instance_dump.py"): {
        "if not is_orthanc_identifier(instance):": "if False:",
        "> MAX_FILE_BYTES:": "> MAX_FILE_BYTES * 99:",
        "finally:\n            self._callers.release()": "finally:\n            pass",
    },
    ("src/purge_old_studies/archive.py", "tests/unit/test_guard_purge_old_studies.py"): {
        "if is_protected:\n            return": "if False:\n            return",
    },
    ("src/purge_old_studies/clock.py", "tests/unit/test_guard_purge_old_studies.py"): {
        "if -MAX_BEHIND_SECONDS <= now - expected <= self._max_ahead:": "if True:",
    },
    ("src/purge_old_studies/index.py", "tests/unit/test_guard_purge_old_studies.py"): {
        "if error.args[0] in UNKNOWN_RESOURCE:": "if True:",
    },
    ("src/purge_old_studies/purge.py", "tests/unit/test_guard_purge_old_studies.py"): {
        'if study.received != row["facts"]["LastUpdate"]:': "if False:",
        "if not is_meant(study, self._asked):": "if False:",
    },
    ("src/purge_old_studies/schedule.py", "tests/unit/test_guard_purge_old_studies.py"): {
        # (g)
        'if not self._ledger.run("INSERT OR IGNORE INTO runs VALUES(?,?)", rule.name, f"{today:%Y%m%d}"):': "if False:",
        "if due and ahead > CLOCK_JUMP:": "if False:",
        "if reading.doubt:": "if False:",
    },
    ("src/series_private_tags/follower.py", "tests/unit/test_guard_series_private_tags.py"): {
        'place_in_log(kept, newest, "series_private_tags") if kept >= 0 else newest': "kept if kept >= 0 else newest",
    },
    ("src/series_private_tags/dicom_file.py", "tests/unit/test_guard_series_private_tags.py"): {
        "if depth > MAX_SEQUENCE_DEPTH:": "if False:",
        'end_of_sequence(data, start, implicit or vr == b"UN")': "end_of_sequence(data, start, implicit)",
        'end_of_sequence(data, start, implicit or vr == b"UN", depth + 1)': "end_of_sequence(data, start, implicit, depth + 1)",
    },
    ("src/series_private_tags/entries.py", "tests/unit/test_guard_series_private_tags.py"): {
        "found = self._exact.get((group, element)), self._of_creator": "found = self._exact.get((group, element)), None and self._of_creator",
        "if group % 2 == 0:": "if False:",
    },
    ("src/series_thumbnail/drawing.py", "tests/unit/test_guard_series_thumbnail.py"): {
        "if not task.spoiled:\n                    self._cache.put": "if True:\n                    self._cache.put",
        "if picture.count in (None, count):": "if True:",
        "self._cache.drop(resource)": "pass",
    },
    ("src/series_thumbnail/routes.py", "tests/unit/test_guard_series_thumbnail.py"): {
        "if not is_orthanc_identifier(resource):": "if False:",
    },
}
