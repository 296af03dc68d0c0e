# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: what `tests/mutants.py` makes, one at a time, and a test has to notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes. (a) to (l) are guards that
no test had watched once.
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
    ("src/anonymize_series/sending.py", "tests/anonymize_series/unit/test_guards.py"): {
        'why = why_not_all(job, data["Copies"])': 'why = ""',
    },
    ("src/audit_log/recorder.py", "tests/audit_log/unit/test_guards.py"): {
        "if lost := self._inbox.lost:": "if lost := 0:",
    },
    ("src/audit_log/verification.py", "tests/audit_log/unit/test_guards.py"): {
        # (d)
        "if self._first > self._dropped_up_to + 1:": "if False:",
        "if self._newest and self.number < self._newest[0]:": "if False:",
        "elif not hmac.compare_digest(": "elif False and not hmac.compare_digest(",
    },
    ("src/auto_forward_modality.py", "tests/forwarding/unit/test_proofs.py"): {
        'for one in report["Success"] if': 'for one in (*report["Success"], {"SOPInstanceUID": "1.2"}) if',
        'if report["Status"] == "Pending" and abs(': "if False and abs(",
        "COMMITTED_WITHIN:\n        return None": "COMMITTED_WITHIN * 99:\n        return None",
        "return committed & found_by_patient(loopback, name, instances, ours)": "return committed",
    },
    ("src/auto_forward_peer.py", "tests/forwarding/unit/test_proofs.py"): {
        'if any(one.get("Origin") == "RestApi"': 'if any(False and one.get("Origin") == "RestApi"',
    },
    ("src/auto_retries/retrier.py", "tests/auto_retries/unit/test_owed.py"): {
        "watched | {study or patient for study, patient in places} | ": "watched | ",
        "watched | {study or patient": "{study or patient",
    },
    ("src/auto_retries/freshness.py", "tests/auto_retries/unit/test_guards.py"): {
        # (e)
        "if self._overwrites:": "if False:",
        'addresses == data["Addresses"]': "True",
        'return bool(count == job["Content"].get("InstancesCount"))': "return True",
    },
    ("src/anonymize_series/sending.py", "tests/common/unit/test_forgotten_jobs.py"): {
        "< END_EVENT_SECONDS:": "< 0:",
        "self._on_forgotten(row, data)\n": 'self._attempts.fail(row, "")\n',
        "here.keys() == set(copies) == self._peers": "self._peers",
        "if recipe.peer is None:\n            return False": "if recipe.peer is None:\n            return True",
        "self._ends.get(row": "(lambda _: None)(row",
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
    ("src/common/aets.py", "tests/common/unit/test_aets.py"): {
        "return aet if self._is_strict else aet.lower()": "return aet.lower()",
        "matches_any(self.key(aet), map(self.key, patterns))": "matches_any(aet, patterns)",
    },
    ("src/common/append_only.py", "tests/common/unit/test_append_only.py"): {
        "if there > place:": "if False:",
        "< len(lines):": "< 0:",
        "if self._synced:": "if False:",
        "min(self._end, there)": "self._end",
        "if self._is_ours:\n            self.check()": "",
        "os.ftruncate(self._file, whole)\n": "pass\n",
        "with contextlib.suppress(OSError):\n                os.ftruncate(self._file, place)\n": "",
    },
    ("src/common/jobs.py", "tests/common/unit/test_forgotten_jobs.py"): {
        "if reported is None else (Ending.FAILURE": "if True else (Ending.FAILURE",
        "if reported is None and job[": "if job[",
    },
    ("src/common/jobs.py", "tests/auto_retries/unit/test_guards.py"): {
        'job.get("ErrorCode") == CANCELED_JOB': "False",
    },
    ("src/auto_retries/recipes.py", "tests/auto_retries/unit/test_guards.py"): {
        "if len({address(known[name]) for name in names}) > 1:": "if False:",
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
    ("src/common/outside.py", "tests/common/unit/test_outside.py"): {
        "session.cookies.set_policy": "(lambda _: None)",
        "def get_redirect_target(": "def get_no_redirect_target(",
        "prepared.url = self._origin + target": "prepared.prepare_url(self._origin + target, None)",
        "if call.ended:  # headers": "if False:  # headers",
        "if call.ended:  # without": "if False:  # without",
        "if len(body) > largest:": "if False:",
        'if declared.isdecimal() and "Transfer-Encoding" not in': 'if False and "Transfer-Encoding" not in',
        'kind.__module__.partition(".")[0] not in ("requests", "urllib3") or': "True or",
        "not isinstance(error, http.client.InvalidURL)": "True",
        'return getattr(THREAD, "call", None) is None': "return True",
        "decode_content=False": "decode_content=True",
        "IDLE_CONNECTION_SECONDS:\n": "IDLE_CONNECTION_SECONDS * 0 + 1e9:\n",
    },
    ("src/common/outside.py", "tests/common/unit/test_outside_tls_and_proxies.py"): {
        "session.trust_env = False": "session.trust_env = True",
        "def cert_verify(": "def verify_no_cert(",
        "context.load_cert_chain(certificate_file, key_file, key_password)": "context.load_cert_chain(certificate_file, key_file)",
    },
    ("src/cmove_interceptor/delivery.py", "tests/common/unit/test_outside_callers.py"): {
        "if self._stopping.is_set():  # it may": "if False:  # it may",
    },
    ("src/cmove_interceptor/peer.py", "tests/common/unit/test_outside_callers.py"): {
        "if answer.problem:": "if False:",
        "total=max(0.1, deadline - time.monotonic())": "total=60",
        "or urllib.request.proxy_bypass(host)": "",
    },
    ("src/cmove_interceptor/required.py", "tests/common/unit/test_outside_callers.py"): {
        "caller.send(prepared, seconds, seconds)": "caller.send(prepared, seconds, 60)",
    },
    ("src/dicom_events/brokers/webhook.py", "tests/common/unit/test_outside_callers.py"): {
        "self._outside.close()": "pass",
    },
    ("src/common/routes.py", "tests/common/unit/test_routes.py"): {
        "output.SetHttpHeader(one_line(name), one_line(value))": "output.SetHttpHeader(name, value)",
        "KEPT_ALIVE.append(callback)": "pass",
        'if len(body := raw.get("body", b"")) > LARGEST_BODY:': 'if len(body := raw.get("body", b"")) < 0:',
    },
    ("src/common/quirks.py", "tests/common/unit/test_quirks.py"): {
        "except OSError:": "except KeyError:",
        "except TypeError:": "except KeyError:",
        "each.absolute().parent == parent": "True",
    },
    ("src/common/arrivals.py", "tests/common/unit/test_arrivals.py"): {
        'str(tags.get(tag) or "") for': 'str(tags.get(tag) or "").strip() for',
        "Arrival(*shared, digest)": "Arrival(*self._shared[key], digest)",
        "if not all(uid.isascii() for uid in uids):": "if False:",
        "self._known.pop(instance, None)\n            self._known[instance]": "self._known[instance]",
    },
    ("src/common/cross_site.py", "tests/common/unit/test_routes.py"): {
        # (h)
        '*headers.get("x-forwarded-host", "").split(",")]': "]",
        'OWN_PAGES = ("same-origin", "none")': 'OWN_PAGES = ("same-origin", "none", "same-site")',
        "if _is_browser(headers) and (mime": "if False and (mime",
    },
    ("src/common/cross_site.py", "tests/purge_old_studies/unit/test_guards.py"): {
        "if ahead := next((name for name in AHEAD_OF_TIME if name in headers), None):": 'if ahead := "":',
    },
    ("src/common/times.py", "tests/common/unit/test_days.py"): {
        'r"[0-9]{8}"': 'r"\\d{8}"',
        "except ValueError:\n        return None\n\n\ndef parse_time": "except KeyError:\n        return None\n\n\ndef parse_time",
    },
    ("src/common/embedded.py", "tests/common/unit/test_days.py"): {
        ".parent / name": ".parent.parent / name",
    },
    ("src/common/changes.py", "tests/common/unit/test_changes.py"): {
        'self._ledger.run("UPDATE arrived SET seen=? WHERE seen>?", time.time(), time.time())': "pass",
        "limit = 2**62 if before is None else before": "limit = 2**62",
        'if not self._reconcile and change == "NewInstance"': 'if change == "NewInstance"',
        "if last + self._quiet_after > time.time():": "if False:",
        'self._ledger.run("DELETE FROM arrived WHERE instance=?", instance)\n': "raise\n",
        "if not any(first <= change": "if not any(first < change",
        "<= last for first, last in spans)": "for first, last in spans)",
        "self._ledger.run(\"DELETE FROM state WHERE name='cursor'\")": "pass",
        'self._ledger.set_value("began", 0)': "pass",
    },
    ("src/common/changes.py", "tests/forwarding/unit/test_restored_index.py"): {
        'self._ledger.run("UPDATE arrived SET seq=0 WHERE seq>?", place)': "pass",
        "self._set_back(place)\n": "pass\n",
    },
    ("src/common/json_text.py", "tests/common/unit/test_routes.py"): {
        "if depth > MAX_JSON_DEPTH:": "if False:",
        "if len(found := dict(pairs)) < len(pairs):": "if (found := dict(pairs)) is None:",
    },
    ("src/common/inbox.py", "tests/audit_log/unit/test_guards.py"): {
        "self.lost += 1": "pass",
    },
    ("src/common/ledger.py", "tests/common/unit/test_ledger.py"): {
        'OR next_attempt>?) "': 'OR next_attempt>?+9e9) "',
        "state IN ('done','gone') AND": "state IN ('done','gone','dead') AND",
    },
    ("src/common/ledger.py", "tests/common/unit/test_ledger_tasks.py"): {
        "DROP TABLE IF EXISTS work_counts;": "",
        "DROP INDEX IF EXISTS work_by_state;": "",
        "o.task=w.task AND": "",
        "WHERE task=? AND queue=? AND state='waiting'": "WHERE ?<>'' AND queue=? AND state='waiting'",
        "AFTER UPDATE OF task, queue, state ON work": "AFTER UPDATE OF state ON work",
        'f"BEGIN IMMEDIATE; {sql} COMMIT;"': "sql",
    },
    ("src/common/loopback.py", "tests/common/unit/test_loopback.py"): {
        "{path.partition('?')[0]}: {reason}": "{path}: {reason}",
    },
    ("src/common/loopback.py", "tests/common/unit/test_loopback_certificates.py"): {
        "            self.tls()  # now": "            pass  # now",
        "file if file.is_absolute() else configuration_folder() / file": "file",
        "if url := _own_url(configuration):": "if url := None:",
        "except (OSError, ValueError) as error:": "except KeyError as error:",
    },
    ("src/common/loopback.py", "tests/common/unit/test_loopback_and_settings.py"): {
        '2 if method != "POST" or path.endswith(IDEMPOTENT_POSTS) else 1': "2",
    },
    ("src/common/parameters.py", "tests/forwarding/unit/test_deliveries.py"): {
        "if name not in taken:": "if False:",
        "if not isinstance(value, list) or not value or not all(": "if not isinstance(value, list) or not all(",
    },
    ("src/common/pinned_tls.py", "tests/common/unit/test_loopback_certificates.py"): {
        "if certificate != context.pinned:": "if False:",
        "@functools.cache": "@functools.lru_cache(0)",
        "if is_shown:": "if False:",
    },
    ("src/common/place.py", "tests/common/unit/test_changes.py"): {
        # (f)
        "return min(kept, newest)": "return kept",
        # (f)
        "if kept > newest:": "if False:",
    },
    ("src/common/settings.py", "tests/common/unit/test_scripts_section.py"): {
        ".is_loopback and bool(parts.port)": ".is_loopback",
        'ipaddress.ip_address(parts.hostname or "").is_loopback and': "",
        '"@" not in parts.netloc and': "",
        'url.removesuffix("/") == f"http://{parts.netloc}"': "True",
        "    settings_of_all_scripts(configuration)\n": "",
    },
    ("src/common/settings.py", "tests/common/unit/test_settings.py"): {
        "(hint is bool) == isinstance(found, bool)": "True",
    },
    ("src/common/settings.py", "tests/common/unit/test_loopback_and_settings.py"): {
        'if limits and limits.get("secret"):': "if False:",
    },
    ("src/common/state.py", "tests/common/unit/test_state.py"): {
        "if stat.S_IMODE(path.stat().st_mode) & OTHERS:": "if False:",
    },
    ("src/common/status.py", "tests/common/unit/test_status.py"): {
        "WAITING if worker.is_waiting else": "WAITING if False else",
        "MISCONFIGURED if worker.is_off else": "MISCONFIGURED if False else",
        "return self.is_unused or (self.state == RUNNING and self.reason is None)": "return True",
        "self.state == RUNNING and self.reason is None": "self.state == RUNNING",
        "except (sqlite3.OperationalError, OSError) as error:": "except KeyError as error:",
        'return text.partition("\\n")[0]': "return text",
        "if hand_over := getattr(orthanc, HAND_OVER, None):": "if hand_over := None:",
        "if not LISTED_SCRIPTS:": "if True:",
    },
    ("src/common/worker.py", "tests/common/unit/test_status.py"): {
        "self.trouble.note(reason)": "pass",
        'self.last = text.partition("\\n")[0], time.time()': "self.last = text, time.time()",
    },
    ("src/common/parameters.py", "tests/common/unit/test_status.py"): {
        "if name in found:": "if False:",
        "if in_other_style(each) == name": "if False",
        "if name[:1].isupper() == from_query:": "if False:",
    },
    ("src/purge_old_studies/api.py", "tests/common/unit/test_status_of_scripts.py"): {
        "reason=self._clock.read().doubt or None": "reason=None",
    },
    ("src/dicom_events/pipeline.py", "tests/common/unit/test_status_of_scripts.py"): {
        "for each in self.publishers if each.complaint]": "for each in self.publishers if False]",
    },
    ("src/common/user_number.py", "tests/common/unit/test_user_number.py"): {
        "if value == number]": "if False]",
        "value[0] if isinstance(value, list) and value else value": "value",
    },
    ("src/common/work.py", "tests/common/unit/test_work_attempts.py"): {
        '(next_attempt<=? OR next_attempt>?) "': '(next_attempt<=? OR next_attempt>?+9e9) "',
        "WHERE id=? AND state='waiting'\"\n        return bool(self._ledger.run(sql, job": 'WHERE id=?"\n        return bool(self._ledger.run(sql, job',
        "AND state IN ('waiting','sending')\"": '"',
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
    ("src/event_dispatcher/calls.py", "tests/event_dispatcher/test_event_dispatcher.py"): {
        "self.is_over = self.future is not None and not self.future.set_running_or_notify_cancel()": "self.is_over = False",
    },
    ("src/common/work.py", "tests/forwarding/unit/test_failures.py"): {
        # (i)
        "state='waiting', attempts=attempts-1, next_attempt=0": "state='waiting', next_attempt=0",
    },
    ("src/forwarding/alternates.py", "tests/forwarding/unit/test_alternates.py"): {
        "health.silent_seconds() < self._after_seconds or": "",
        "or not self._may_be_sent_to(name):\n                continue": ":\n                continue",
        'if data.get("Sent"):': "if False:",
        "return answered and is_right": "return is_right",
    },
    ("src/forwarding/api.py", "tests/forwarding/unit/test_deliveries.py"): {
        '[state for state in STATES if state != "sending"]': "STATES",
        "if not dry:": "if True:",
        "if name is None or name not in known:": "if False:",
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
    ("src/auto_forward_modality.py", "tests/forwarding/unit/test_ae_titles.py"): {
        "functools.partial(came_from, aets=AeTitles(configuration))": "came_from",
        'ANY_CASE.same(node["AET"], system["DicomAet"])': 'node["AET"] == system["DicomAet"]',
    },
    ("src/forwarding/engine.py", "tests/forwarding/unit/test_ae_titles.py"): {
        '"first", matchers, aets)': '"first", matchers)',
    },
    ("src/forwarding/addresses.py", "tests/forwarding/unit/test_loops.py"): {
        "time.monotonic() + LOOK_UP_AGAIN_SECONDS": "0.0",
        "time.monotonic() + ADDRESSES_COUNT_SECONDS": "time.monotonic() + 1e9",
        "if not looking_up.is_alive() or self._stopping.is_set():": "if not looking_up.is_alive():",
        'removeprefix("::ffff:").partition("%")[0]': 'removeprefix("::ffff:")',
    },
    ("src/forwarding/rows.py", "tests/forwarding/unit/test_gone.py"): {
        'if (number := gone - data.get("Gone", 0)) <= 0:': "if (number := gone) <= 0:",
        'self.note_gone(row, len(data["Instances"] or (row["subject"],)) - data.get("Gone", 0))': "pass",
    },
    ("src/forwarding/intake.py", "tests/forwarding/unit/test_gone.py"): {
        "left -= not_handed_over(self._ledger, self._levels[0], left)": "pass",
        "left.difference(still_here(self._loopback, [*left]))": "left",
        "            self._deleted_early += 1\n": "            pass\n",
    },
    ("src/forwarding/gone.py", "tests/forwarding/unit/test_gone.py"): {
        '"Reject" and orthanc.CheckVersionAdvanced(1, 11, 2):': '"Reject":',
    },
    ("src/forwarding/engine.py", "tests/forwarding/unit/test_owed.py"): {
        "if not self._intake.has_read:": "if False:",
        "        self._reports.inbox.flush()\n        arriving": "        arriving",
        "return self._owing.of(resources) | arriving": "return self._owing.of(resources)",
        "if self.destinations.is_any_wanted() else": "if True else",
    },
    ("src/common/unread.py", "tests/common/unit/test_unread.py"): {
        "        self._before |= new\n        self._new -= new\n": "        self._new -= new\n        self._before |= new\n",
        "{*self._new, *self._before}": "{*self._before, *self._new}",
        "if len(self._new) < MOST_REPORTS:": "if True:",
    },
    ("src/common/owed.py", "tests/common/unit/test_owed.py"): {
        "            places |= places_of(self._loopback, missing)\n": "",
        "WHEN 'Study' THEN subject": "WHEN 'Study' THEN ''",
        "WHEN 'Patient' THEN subject": "WHEN 'Patient' THEN ''",
    },
    ("src/common/owed.py", "tests/forwarding/unit/test_protection.py"): {
        "work.state IN ('waiting','sending');\n": "work.state IN ('waiting');\n",
    },
    ("src/common/changes.py", "tests/forwarding/unit/test_owed.py"): {
        "if cursor < 0:\n        return set()": "if False:\n        return set()",
        'new = {change["ID"] for change in page["Changes"] if change["ChangeType"] == "NewInstance"}': "new = set[str]()",
    },
    ("src/common/owed.py", "tests/forwarding/unit/test_owed.py"): {
        "if unread is None:\n        raise Refused": "if unread is None:\n        unread = set()\n    if False:\n        raise Refused",
        "unread.union(reported))": "set(reported))",
        "        self.find_out()\n": "",
        "(*arriving_resources(ledger), *new)": "arriving_resources(ledger)",
        "UNION SELECT patient FROM owed WHERE study='' AND": "UNION SELECT '' FROM owed WHERE study='' AND",
    },
    ("src/forwarding/protection.py", "tests/forwarding/unit/test_protection.py"): {
        'self._ledger.run("INSERT OR REPLACE INTO protected VALUES(?,?,?)", patient, state, until)': "pass",
        "is_protected and not is_by_another": "False",
        "            is_by_another = self._held_by_others(patient)\n": "            is_by_another = False\n",
        "is_by_another or self._held_by_others(patient)": "is_by_another",
        '"theirs" if is_protected and not is_by_another else': '"theirs" if is_protected or is_by_another else',
        "                    return True  # it gives it back\n": "                    pass\n",
        "                if self._held_by_others(patient):\n                    return": "                if True:\n                    return",
        " - {self._leaving}": "",
        "why, orthanc.LogWarning)\n            return False\n": "why, orthanc.LogWarning)\n            return True\n",
        'self._trouble.begins(f"{self._name}': '(lambda *_: None)(f"{self._name}',
        "bool(ended and len(over) == PATIENTS_AT_ONCE)": "len(over) == PATIENTS_AT_ONCE",
        'if self._is_on else "(0 AND': 'if True else "(0 AND',
    },
    ("src/forwarding/engine.py", "tests/forwarding/unit/test_protection.py"): {
        "            if self.destinations.is_any_wanted():\n": "            if True:\n",
        "                self._protect_arrived()\n": "",
    },
    ("src/forwarding/deletion.py", "tests/forwarding/unit/test_protection.py"): {
        "if any(map(self._is_by_scripts, protected)):": "if False:",
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
    ("src/forwarding/assignment.py", "tests/forwarding/unit/test_forwarder.py"): {
        "if not self._settings.skip_modified:": "if False:",
    },
    ("src/forwarding/assignment.py", "tests/forwarding/unit/test_loops.py"): {
        ".difference(own)": "",
        'if self._stopping.is_set() or not self._work.remove(row["id"]):': 'if not self._work.remove(row["id"]):',
    },
    ("src/forwarding/loops.py", "tests/forwarding/unit/test_loops.py"): {
        "if not ip or not addresses or ip in addresses}": "}",
        "not ip or not addresses or": "not ip or",
        '(options.options if options else {}).get("Host", entry["Host"])': 'entry["Host"]',
        "if any(titled.values()) else": "if True else",
        "if (name, what) not in self._warned and": "if",
    },
    ("src/common/changes.py", "tests/forwarding/unit/test_late_series.py"): {
        "-time.time_ns()": "0",
    },
    ("src/forwarding/assignment.py", "tests/forwarding/unit/test_late_series.py"): {
        "some - self._sent.given(name, family, some)": "some",
        "self._to_come(batch, here)": "set(batch.instances or ())",
        "return waiting | not_handed_over(self._ledger, batch.level, instances)": "return waiting",
        "- had.setdefault(name, set())": "- set(had.setdefault(name, set()) and ())",
        "| (self._left_out(whole, verdicts) & again)": "",
        "before | left_out\n": "before\n",
    },
    ("src/forwarding/engine.py", "tests/forwarding/unit/test_late_series.py"): {
        " or several_levels": "",
        "gone = [each for each in deleted if each not in here]": "gone = deleted",
        "self._passed_over.forget_deleted(gone)": "pass",
    },
    ("src/forwarding/sent_instances.py", "tests/forwarding/unit/test_late_series.py"): {
        'or given["seq"] == seq < 0': "",
        "AND instance NOT IN (": "AND instance IN (",
        "self._ledger.run(FORGET_ROUTED)": "pass",
    },
    ("src/forwarding/backfill.py", "tests/forwarding/unit/test_deliveries.py"): {
        "if end >= last:  # there": "if end > last:  # there",
        "if day and first <= day <= last]": "if day]",
    },
    ("src/forwarding/bisection.py", "tests/forwarding/unit/test_halves.py"): {
        "if not self._work.replace_data(row, data):\n": "if False:\n",
    },
    ("src/common/http_threads.py", "tests/forwarding/unit/test_turns.py"): {
        "not self._turns.acquire(blocking=False)": "False",
        "// 3": "// 2",
    },
    ("src/common/http_threads.py", "tests/instance_dump/unit/test_guards.py"): {
        "finally:\n            self._turns.release()": "finally:\n            pass",
    },
    ("src/forwarding/destinations.py", "tests/forwarding/unit/test_unknown_for_a_moment.py"): {
        "self._next_probe = self._next_trial = 0.0": "self._next_probe = 0.0",
        "self._last |= self._known": "self._last = self._known",
    },
    ("src/forwarding/dispatcher.py", "tests/forwarding/unit/test_unknown_for_a_moment.py"): {
        'self._destinations.health_of(row["queue"]).failed(str(error))': "pass",
        "if not health.may_send():\n                    break": "if False:\n                    break",
    },
    ("src/forwarding/dispatcher.py", "tests/forwarding/unit/test_whole_time.py"): {
        "self._work.give_whole_time(name)": "pass",
    },
    ("src/forwarding/engine.py", "tests/forwarding/unit/test_whole_time.py"): {
        "KEPT_UNTIL_CHECKED_DAYS if context.transport.check else 0.0": "0.0",
        "if (lost := self._reports.inbox.lost) and": "if (lost := 0) and",
    },
    ("src/common/jobs.py", "tests/auto_forward_dicomweb/unit/test_dicomweb_servers.py"): {
        'why = ": ".join(reasons) or job': "why = job",
    },
    ("src/forwarding/destinations.py", "tests/auto_forward_dicomweb/unit/test_dicomweb_servers.py"): {
        "if self._known == before and not is_changed:": "if False:",
        "(polled and time.monotonic() >= self._next_ask)": "False",
        "if error.status != 404:": "if True:",
    },
    ("src/forwarding/dicomweb.py", "tests/auto_forward_dicomweb/unit/test_dicomweb_servers.py"): {
        "if error.status not in KNOWS_NO_ROUTE:": "if False:",
        'if came.get("Origin") == "Plugins" or (': "if (",
        'came.get("Origin") == "RestApi" and came.get("RemoteIP") in addresses': "False",
        "if isinstance(answer, dict) and file and": "if False and",
        "== self._port and is_this_machine(host):": "== self._port and False:",
        "if self._configured <= {*loopback.get(": "if {*()} <= {*loopback.get(",
        "if not self._is_wanted:": "if True:",
        "if error.status not in (400, 404):": "if False:",
        "if len(answers) == before:": "if True:",
    },
    ("src/forwarding/failures.py", "tests/auto_forward_dicomweb/unit/test_dicomweb_servers.py"): {
        '("connect", "bad credentials")': '("connect",)',
    },
    ("src/forwarding/jobs.py", "tests/auto_forward_dicomweb/unit/test_dicomweb_servers.py"): {
        "not self._outcomes.is_asked_for(row) and ": "",
    },
    ("src/forwarding/portions.py", "tests/auto_forward_dicomweb/unit/test_dicomweb_servers.py"): {
        "if size > self._largest and number:": "if size > self._largest:",
        'return int(found["UncompressedSize"]) <= self._largest': "return False",
        'self._ledger.add(row["queue"], row["subject"], rest, row["priority"])': "pass",
    },
    ("src/forwarding/verification.py", "tests/auto_forward_dicomweb/unit/test_dicomweb_servers.py"): {
        " and not may_overwrite(context.configuration)": "",
        "if arrived and not answer.missing:": "if False:",
        "arrived = sorted({*answer.asked} - {*answer.missing}) if not answer.error else []": "arrived = sorted(answer.asked)",
    },
    ("src/forwarding/patient_proof.py", "tests/forwarding/unit/test_proofs.py"): {
        "(proved if patient and patients == {patient} else strange).add(instance)": "proved.add(instance)",
        "patient = bare(study[": "patient = ours = bare(study[",
        "if instance is None or not is_part(place, answer):": "if instance is None:",
    },
    ("src/forwarding/peers.py", "tests/forwarding/unit/test_peer_errors.py"): {
        "and public == was:": ":",
    },
    ("src/forwarding/peer_http.py", "tests/forwarding/unit/test_peer_errors.py"): {
        "except (ValueError, http.client.InvalidURL) as error:": "except KeyError as error:",
    },
    ("src/auto_retries/attempts.py", "tests/auto_retries/unit/test_changed_destinations.py"): {
        "if self._stopping.is_set():  # it took": "if False:  # it took",
    },
    ("src/forwarding/proofs.py", "tests/forwarding/unit/test_deletion.py"): {
        "if missing:\n                raise": "if False:\n                raise",
        "{one: instances[one] for one in part}": "instances",
    },
    ("src/forwarding/rows.py", "tests/forwarding/unit/test_alternates.py"): {
        '(row["priority"], data.get("Alternates", [])) == (priority, [*alternates])': 'row["priority"] == priority',
    },
    ("src/forwarding/deletion.py", "tests/forwarding/unit/test_deletion.py"): {
        'if now and (now["data"], now["created"]) == (row["data"], row["created"]):': "if True:",
        # (a)
        "self._is_unfinished(family) or is_arriving(self._ledger, self._loopback, instances)": "self._is_unfinished(family)",
        "self._stopping.is_set() or self._is_under_way(family, some)": "self._stopping.is_set()",
        # (b)
        'states = ("waiting", "sending", "dead")': 'states = ("waiting", "sending", "sending")',
        "if self._is_protected(patient)]:": "if False]:",
        " and self._proofs.others_have(row, data, family, instances)": "",
        "self._look_unless_refused(row)\n": "self._look_at(row)\n",
        '*before.get("Destinations", ())': "",
    },
    ("src/forwarding/peers.py", "tests/forwarding/test_identity.py"): {
        "{*instances} - there, short=True": "(), short=True",
        "return there.intersection(instances)": "return there",
    },
    ("src/forwarding/verification.py", "tests/forwarding/test_identity.py"): {
        '{series["ID"], series["ParentStudy"]} | patients': '{series["ID"], series["ParentStudy"]}',
        "missing = () if error else": "missing = () if True else",
        "and len(wanted[row]) <= LARGEST_WHOLE": "",
    },
    ("src/forwarding/destinations.py", "tests/forwarding/unit/test_destinations.py"): {
        "if since is None or not self.away else": "if since is None else",
        "self.was_silent, self._silent_since = False, None": "self.was_silent = False",
        # (j)
        "self._probe_pauses.next()": "1.0",
        "return not self.away or": "return True or",
        "self.away, self.error, self.answered = True, error, False": "self.away, self.error = True, error",
        "pause = self._trial_pauses.next()": "pause = 0.0",
    },
    ("src/forwarding/dispatcher.py", "tests/forwarding/unit/test_forwarder.py"): {
        "self._destinations.is_paused(name) or not": "not",
        " or not self._destinations.is_open(name)": "",
    },
    ("src/forwarding/dispatcher.py", "tests/forwarding/unit/test_jobs.py"): {
        "return self._work.get(row) if self._work.claim(row) else None": "return self._work.claim(row) or self._work.get(row)",
    },
    ("src/forwarding/whole_series.py", "tests/forwarding/unit/test_whole_series.py"): {
        "not self._leaves_out and": "",
        "len(instances) >= self._fewest": "True",
        'if left.keys() >= {*series["Instances"]}:': "if True:",
        "settings.skip_modified or not": "not",
        "count_of(found) > len(instances)": "False",
    },
    ("src/forwarding/jobs.py", "tests/forwarding/unit/test_whole_series.py"): {
        'self._loopback.post(f"/jobs/{job}/cancel", b"")\n            job': "job",
        "if instances is None or count_of(job) <= len(instances):": "if True:",
        'data.get("NameEach") or': "",
        "resources, instances = self._named(row)\n        possible": "resources = instances = json.loads(row['data'])['Instances']\n        possible",
    },
    ("src/forwarding/pace.py", "tests/forwarding/unit/test_pace.py"): {
        "if DELAYED_ECHO_SECONDS[0] <= fastest <= DELAYED_ECHO_SECONDS[1]:": "if True:",
        "if not self._is_said and": "if",
        "count_of(found) < FEWEST_IMAGES": "False",
        "self._number, self.slow = 0, None": "pass",
        "2 * self._needed": "self._needed",
        "if is_quick and not": "if False and not",
        "elif for_each <= DELAYED_IMAGE_SECONDS[1]:": "else:",
    },
    ("src/forwarding/slots.py", "tests/forwarding/unit/test_slots.py"): {
        "if health.is_doubtful:": "if False:",
        "min(bound, jobs)": "bound + JOBS_SUBMITTED_AHEAD",
        "self.concurrent // self.sharing, self.concurrent - 1": "self.concurrent, self.concurrent",
        ">= LONG_JOB_SECONDS": ">= 1e9",
        "if is_short else 0": "if True else 0",
    },
    ("src/forwarding/jobs.py", "tests/forwarding/unit/test_slots.py"): {
        ".seconds_of_job = seconds": ".seconds_of_job = 0.0",
    },
    ("src/forwarding/intake.py", "tests/forwarding/unit/test_restored_index.py"): {
        "self._sent.forget_numbers(place)": "pass",
        'self._ledger.set_value("taken", min(place, self._ledger.get_value("taken")))': "pass",
        "[0 if seq > place else seq, *more]": "[seq, *more]",
    },
    ("src/forwarding/jobs.py", "tests/forwarding/unit/test_failures.py"): {
        'self._outcomes.settle_failed(row):\n            self.cancel_pending(row["queue"])': "self._outcomes.settle_failed(row):\n            pass",
    },
    ("src/forwarding/failures.py", "tests/forwarding/unit/test_sent_parts.py"): {
        'if job is None or job.get("Content", {}).get("InstancesCount") != number:': "if job is None:",
        "(twice - 1)": "twice",
    },
    ("src/forwarding/outcomes.py", "tests/forwarding/unit/test_sent_parts.py"): {
        "least + 1 if duplicate and least == most else least": "least + 1 if duplicate else least",
        "if has_advanced and is_duplicate(why):": "if is_duplicate(why):",
        'self._work.change(left["id"], attempts=1)': "pass",
        "is_told = named == {*instances} or": "is_told = True or",
        "if left and not is_told and not named <= {*instances}:": "if left and not is_told:",
    },
    ("src/forwarding/outcomes.py", "tests/forwarding/unit/test_one_at_a_time.py"): {
        "if is_rejected(why) and self._is_another_under_way(row):": "if is_rejected(why):",
        'if job and job["State"] in ("Running", "Success"):': "if job:",
    },
    ("src/forwarding/dispatcher.py", "tests/forwarding/unit/test_one_at_a_time.py"): {
        "free = min(free, 1 - sending)": "pass",
    },
    ("src/forwarding/destinations.py", "tests/forwarding/unit/test_one_at_a_time.py"): {
        "since - 1 < time.time() < since + WIDER_AGAIN_SECONDS": "since",
    },
    ("src/forwarding/assignment.py", "tests/forwarding/unit/test_kinds.py"): {
        '"SopClassUid" not in origins[one]': "False",
    },
    ("src/forwarding/dispatcher.py", "tests/forwarding/unit/test_kinds.py"): {
        "max(0, free), LONGEST_WAIT_SECONDS": "max(0, free), 3600.0",
    },
    ("src/forwarding/outcomes.py", "tests/forwarding/unit/test_kinds.py"): {
        "if is_not_accepted(why):": "if False:",
        "elif len(kinds) > 1:": "elif False:",
    },
    ("src/forwarding/rows.py", "tests/forwarding/unit/test_kinds.py"): {
        'self._work.change(row["id"], subject=instances[0])': "pass",
        '"Refused": True': '"Refused": False',
    },
    ("src/forwarding/uids.py", "tests/forwarding/unit/test_kinds.py"): {
        "and uid not in unwanted": "",
    },
    ("src/forwarding/jobs.py", "tests/forwarding/unit/test_jobs.py"): {
        "self.is_one_in_doubt = True\n                raise": "pass",
        "if len(here) == len(resources):\n                raise": "if False:\n                raise",
    },
    ("src/forwarding/peers.py", "tests/forwarding/unit/test_proofs.py"): {
        '        if status != http.HTTPStatus.OK:\n            raise ValueError(f"{name} answers {status} when': '        if False:\n            raise ValueError(f"{name} answers {status} when',
        "return {key for key, uuid in there.items() if uuid}": "return set(instances)",
    },
    ("src/forwarding/routing.py", "tests/forwarding/unit/test_routing.py"): {
        "if name not in every and name not in (rule.destinations or ())]": "]",
        'self._loopback.post("/tools/find", plain)\n': "pass\n",
        "if found[-1].matched and self._first_only:": "if found[-1].destinations and self._first_only:",
        "return batch.resource in self._loopback": "return True or self._loopback",
        "not _is_wanted(batch.uid, wanted)": "False",
        "if chosen and isinstance(chosen, str)": "if isinstance(chosen, str)",
    },
    ("src/forwarding/routing.py", "tests/forwarding/unit/test_patients.py"): {
        '.replace("\\\\", "?")': "",
        "for each in (value, value.strip()))": "for each in (value.strip(),))",
    },
    ("src/forwarding/rules.py", "tests/forwarding/unit/test_rules.py"): {
        'if wanted != "*" and any(': 'if wanted == "" and any(',
        "return None if all(values) else": "return None if True else",
        "(yesterday and now.time() < end)": "(today and now.time() < end)",
        "if tag in below or": "if False or",
    },
    ("src/forwarding/sent_instances.py", "tests/forwarding/unit/test_forwarder.py"): {
        'given["seq"] >= seq > 0 or': "False or",
    },
    ("src/forwarding/settings.py", "tests/forwarding/unit/test_forwarder.py"): {
        "if key in RESERVED_STORE_OPTIONS]": 'if key == "Permissive"]',
    },
    ("src/instance_dump.py", "tests/instance_dump/unit/test_guards.py"): {
        "if not is_orthanc_identifier(instance):": "if False:",
        "> MAX_FILE_BYTES:": "> MAX_FILE_BYTES * 99:",
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
    ("src/series_private_tags/follower.py", "tests/series_private_tags/unit/test_guards.py"): {
        'place_in_log(kept, newest, "series_private_tags") if kept >= 0 else newest': "kept if kept >= 0 else newest",
    },
    ("src/series_private_tags/dicom_file.py", "tests/series_private_tags/unit/test_guards.py"): {
        "if depth > MAX_SEQUENCE_DEPTH:": "if False:",
        'end_of_sequence(data, start, implicit or vr == b"UN")': "end_of_sequence(data, start, implicit)",
        'end_of_sequence(data, start, implicit or vr == b"UN", depth + 1)': "end_of_sequence(data, start, implicit, depth + 1)",
    },
    ("src/series_private_tags/entries.py", "tests/series_private_tags/unit/test_guards.py"): {
        "found = self._exact.get((group, element)), self._of_creator": "found = self._exact.get((group, element)), None and self._of_creator",
        "if group % 2 == 0:": "if False:",
    },
    ("src/series_thumbnail/drawing.py", "tests/series_thumbnail/unit/test_guards.py"): {
        "if not task.spoiled:\n                    self._cache.put": "if True:\n                    self._cache.put",
        "if picture.count in (None, count):": "if True:",
        "self._cache.drop(resource)": "pass",
    },
    ("src/series_thumbnail/routes.py", "tests/series_thumbnail/unit/test_guards.py"): {
        "if not is_orthanc_identifier(resource):": "if False:",
    },
}
