# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/common/status.py", "tests/common/unit/test_worker.py"): {
        "or self.state == STANDBY or": "or",
    },
    ("src/common/postgres.py", "tests/common/unit/test_ledger_on_postgres.py"): {
        '.status) != "COMMIT":': '.status) == "":',
        "if again and process != self._process:": "if False:",
        "        self.execute(KEEP_WHAT_IS_WRITTEN)\n": "",
        "and version < 140000:": "and version < 990000:",
        'value.replace("\\0", "�")': "value",
    },
    ("src/common/postgres_ledger.py", "tests/common/unit/test_ledger_on_postgres.py"): {
        "if found and found[0][0] > version:": "if False:",
        "                if not self._session.is_broken:\n                    raise\n": "                raise\n",
        "                self._lost = error\n": "",
    },
    ("src/dicom_events/recorder.py", "tests/dicom_events/unit/test_shared_outbox.py"): {
        "self.resources.is_unstable(resource) and not": "not",
        " and not self.came_lately(resource, clock, self._settling_seconds)": "",
    },
    ("src/dicom_events/relay.py", "tests/dicom_events/unit/test_shared_outbox.py"): {
        "                db.execute(NOTE_PLACE, (place_name(server), place))\n": "",
    },
    ("src/common/settings.py", "tests/every_script/unit/test_complaints_show_no_secret.py"): {
        '"an object of keys and values", {"secret": found and _may_hold_secrets(cls)})': '"an object of keys and values")',
        '{"secret": limits.get("secret") or _may_hold_secrets(hint)}': "limits",
    },
    ("src/common/ledger.py", "tests/common/unit/test_clock_was_set.py"): {
        "        self._follow_clock()\n        changes": "        changes",
        "            self._follow_clock()\n            found": "            found",
        "later, now = max(0.0, ahead - self._clock_ahead)": "later, now = ahead - self._clock_ahead",
        "CASE WHEN created+?<? THEN created+? ELSE ? END": "CASE WHEN created+?<? THEN created+? ELSE created+?*0 END",
        "            self._clock_ahead = ahead\n": "",
    },
    ("src/anonymize_series/sending.py", "tests/common/unit/test_forgotten_jobs.py"): {
        "< END_EVENT_SECONDS:": "< 0:",
        "self._on_forgotten(row, data)\n": 'self._attempts.fail(row, "")\n',
        "here.keys() == set(copies) == self._peers": "self._peers",
        "if recipe.peer is None:\n            return False": "if recipe.peer is None:\n            return True",
        "self._ends.get(row": "(lambda _: None)(row",
    },
    ("src/common/metrics.py", "tests/common/unit/test_metrics.py"): {
        "            if not self._stopping.is_set():\n": "            if True:\n",
        "        with self._calling:\n            pass": "        if True:\n            pass",
        "not in (RUNNING, STANDBY) and not found.is_unused": "not in (RUNNING, STANDBY)",
        "        if found.state == RUNNING:": "        if True:",
        "contextlib.suppress(sqlite3.Error, OSError, LoopbackError)": "contextlib.suppress(LoopbackError)",
        "if text != self._complaint and not": "if not",
    },
    ("src/forwarding/forwarder.py", "tests/every_script/unit/test_kept_alive.py"): {
        "kept_alive(self._reports.arrivals.stored)": "self._reports.arrivals.stored",
    },
    ("src/dicom_events/service.py", "tests/every_script/unit/test_kept_alive.py"): {
        "kept_alive(self.on_stored_instance)": "self.on_stored_instance",
    },
    ("src/cmove_interceptor/__init__.py", "tests/every_script/unit/test_kept_alive.py"): {
        "kept_alive(interceptor.apply)": "interceptor.apply",
        "kept_alive(interceptor.move_synchronously)": "interceptor.move_synchronously",
    },
    ("src/common/metrics.py", "tests/every_script/unit/test_kept_alive.py"): {
        "kept_alive(reporter.around(kept_alive(on_change)))": "reporter.around(kept_alive(on_change))",
    },
    ("src/common/route_list.py", "tests/every_script/test_openapi.py"): {
        'vars(handler)["media"] = statuses, media': 'vars(handler)["media"] = (), ()',
    },
    ("src/common/path_segments.py", "tests/common/unit/test_path_segments.py"): {
        'urllib.parse.unquote(part) in (".", "..")': 'part in (".", "..")',
        "(?<=%2F)|(?<=%5C)|^": "^",
        'segment.replace("%00", "_")': "segment",
        'return found or "_"': "return found",
        "\\.*[\\w-][\\w.-]*": "[\\w.-]+",
    },
    ("src/cmove_interceptor/templates.py", "tests/common/unit/test_path_segments.py"): {
        "harmless_segment(_filled(template, values, encode))": "_filled(template, values, encode)",
    },
    ("src/cmove_interceptor/settings.py", "tests/common/unit/test_path_segments.py"): {
        "if has_dot_segments(parts.path):": "if False:",
    },
    ("src/dicom_events/broker_settings.py", "tests/common/unit/test_path_segments.py"): {
        "if any(has_dot_segments(urllib.parse.urlsplit(url).path) for url in urls):": "if False:",
    },
    ("src/forwarding/dicomweb.py", "tests/common/unit/test_path_segments.py"): {
        "if not fits_in_path(study) or not fits_in_path(series):": "if not fits_in_path(study):",
        "not fits_in_path(study) or": "",
    },
    ("src/common/urls.py", "tests/common/unit/test_urls.py"): {
        "[^\\s/]*@": "[^\\s/@]*@",
        'USER.sub("", text)': "text",
        "(?:\\?\\S*)?": "",
    },
    ("src/common/jobs.py", "tests/common/unit/test_urls.py"): {"without_secrets(str(why))": "str(why)"},
    ("src/anonymize_series/sending.py", "tests/common/unit/test_urls.py"): {
        'without_secrets(str(next((reason for reason in reasons if reason), job["State"])))': "str(next(filter(None, reasons)))",
    },
    ("src/common/aets.py", "tests/common/unit/test_aets.py"): {
        'aet = aet.strip(" ")': "pass",
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
    ("src/common/environment.py", "tests/common/unit/test_environment.py"): {
        "and _with_values(written) == found:": "and VARIABLE.search(written):",
        "if each[2] is None and": "if",
        "and each[1] not in os.environ}": "and not found}",
        '"$": "null"': '"$": "x"',
        '",": ""}': '",": ","}',
        "QUOTED_DEFAULT.sub(": "(lambda _, text: text)(",
        "TEXT_OR_COMMENT.sub(": "(lambda _, text: text)(",
    },
    ("src/common/jobs.py", "tests/common/unit/test_forgotten_jobs.py"): {
        "if reported is None else (Ending.FAILURE": "if True else (Ending.FAILURE",
        "if reported is None and job[": "if job[",
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
        "kept_alive(callback)": "callback",
        "\\x7f-\\x9f": "\\x7f",
        "\\u2028\\u2029": "",
        "\\ud800-\\udfff": "",
        'if len(body := raw.get("body", b"")) > LARGEST_BODY:': 'if len(body := raw.get("body", b"")) < 0:',
    },
    ("src/common/worker.py", "tests/common/unit/test_worker.py"): {
        "            self._stand_by(error)\n            return 0.0\n": "            return 0.0\n",
        "        self._lose()\n": "",
        "why = one_line(error)\n            waits": "why = str(error)\n            waits",
        "why, wait = one_line(error), AFTER_FAULT": "why, wait = str(error), AFTER_FAULT",
        "self.is_waiting = first_line(text), waits": "self.is_waiting = text, waits",
        "self._why = text, first_line(why)": "self._why = text, why",
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
    ("src/common/json_text.py", "tests/common/unit/test_routes.py"): {
        "if depth > MAX_JSON_DEPTH:": "if False:",
        "if len(found := dict(pairs)) < len(pairs):": "if (found := dict(pairs)) is None:",
    },
    ("src/common/ledger.py", "tests/common/unit/test_ledger.py"): {
        'OR next_attempt>?) "': 'OR next_attempt>?+9e9) "',
        "state IN ('done','gone') AND": "state IN ('done','gone','dead') AND",
    },
    ("src/common/ledger.py", "tests/common/unit/test_ledger_tasks.py"): {
        "; UPDATE work SET added=created;": ";",
        "DROP TABLE IF EXISTS work_counts;": "",
        "DROP INDEX IF EXISTS work_by_state;": "",
        "o.task=w.task AND": "",
        "WHERE task=? AND queue=? AND state='waiting'": "WHERE ?<>'' AND queue=? AND state='waiting'",
        "AFTER UPDATE OF task, queue, state ON work": "AFTER UPDATE OF state ON work",
        'f"BEGIN IMMEDIATE; {sql} COMMIT;"': "sql",
    },
    ("src/common/loopback.py", "tests/common/unit/test_loopback.py"): {
        "{path.partition('?')[0]}: {reason}": "{path}: {reason}",
        "is_fresh=attempts == 1": "is_fresh=False",
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
        'parts.netloc.count("@") <= 1 and "@" not in parts.path + parts.query and not parts.fragment': "True",
        'and " " not in name': "",
        ".is_loopback and bool(parts.port)": ".is_loopback",
        'ipaddress.ip_address(parts.hostname or "").is_loopback and': "",
        '"@" not in parts.netloc and': "",
        'url.removesuffix("/") == f"http://{parts.netloc}"': "True",
        "    settings_of_all_scripts(configuration)\n": "",
    },
    ("src/common/settings.py", "tests/common/unit/test_environment.py"): {
        "if isinstance(found, FromEnvironment) and found.unset:": "if False:",
        "    if found.unset:\n        raise _wrong": "    if False:\n        raise _wrong",
        'if limits.get("read_later"):': "if False:",
        "may_be_number=key not in texts": "may_be_number=True",
        "found = str(found) if hint is str else found.value": "found = found.value",
        "found {_as_text(found, limits)} from": "found {found} from",
    },
    ("src/common/settings.py", "tests/common/unit/test_settings.py"): {
        "(hint is bool) == isinstance(found, bool)": "True",
    },
    ("src/common/settings.py", "tests/common/unit/test_what_was_meant.py"): {
        "meant = below.get(key) or next(": "meant = next(",
        "0.8) or parts or": "0.8) or",
        "get_close_matches(key, known, 1, 0.8) or": "",
        "get_close_matches(key, known, 1, 0.6)": "get_close_matches(key, known, 1, 0.5)",
    },
    ("src/common/settings.py", "tests/common/unit/test_loopback_and_settings.py"): {
        'if limits and limits.get("secret"):': "if False:",
    },
    ("src/common/state.py", "tests/common/unit/test_state_of_all_scripts.py"): {
        "and not state_path and script not in KEPT_IN_FILES": "and script not in KEPT_IN_FILES",
        "state_path = state_path or of_all.state_path": ("state_path = of_all.state_path or state_path"),
    },
    ("src/common/state.py", "tests/common/unit/test_state.py"): {
        "if stat.S_IMODE(path.stat().st_mode) & OTHERS:": "if False:",
    },
    ("src/common/status.py", "tests/common/unit/test_status.py"): {
        "WAITING if worker.is_waiting else": "WAITING if False else",
        "MISCONFIGURED if worker.is_off else": "MISCONFIGURED if False else",
        "return self.is_unused or self.state == STANDBY or (self.state == RUNNING and self.reason is None)": "return True",
        "self.state == RUNNING and self.reason is None": "self.state == RUNNING",
        "except (sqlite3.OperationalError, OSError) as error:": "except KeyError as error:",
        "if hand_over := getattr(orthanc, HAND_OVER, None):": "if hand_over := None:",
        "if not LISTED_SCRIPTS:": "if True:",
    },
    ("src/common/worker.py", "tests/common/unit/test_status.py"): {
        "self.trouble.note(reason)": "pass",
        'return text.partition("\\n")[0]': "return text",
        "self.last = first_line(text), time.time()": "self.last = text, time.time()",
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
    ("src/common/work.py", "tests/common/unit/test_work_verbs.py"): {
        'f"{added}<?"': 'f"{added}<=?"',
        '"added") if self.is_by_time else ("", "+added")': '"added") if False else ("", "+added")',
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
}
