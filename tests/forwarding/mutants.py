# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/forwarding/not_in_ledger.py", "tests/forwarding/unit/test_catch_up.py"): {
        'row["created"] > received and': "",
        "if destination in whole:": "if False:",
        "instances - to_come - self._sent": "instances - self._sent",
        "- self._sent.given(destination, family, instances)": "",
    },
    ("src/forwarding/catch_up.py", "tests/forwarding/unit/test_catch_up.py"): {
        "wanted.intersection(": "set(",
    },
    ("src/forwarding/assignment.py", "tests/forwarding/unit/test_catch_up.py"): {
        'below = BACKFILL_PRIORITY if "CatchUp" in data else 0': "below = 0",
        'if "CatchUp" in data:\n                shares': "if False:\n                shares",
    },
    ("src/common/catch_up.py", "tests/forwarding/unit/test_catch_up.py"): {
        "if self.left:": "if False:",
        'first[0]["Date"] < date': "False",
        "if found.timestamp() > time.time():": "if False:",
    },
    ("src/forwarding/metrics.py", "tests/forwarding/unit/test_metrics.py"): {
        "for name in waited_for if name in away or name in missing": "for name in away",
        "if name in away or name in missing": "if name in away",
        "self._counted, self._since = delivered, now": "pass",
    },
    ("src/forwarding/destinations.py", "tests/forwarding/unit/test_metrics.py"): {
        "            self._away_since = time.monotonic()\n": "            pass\n        self._away_since = time.monotonic()\n",
    },
    ("src/common/work.py", "tests/forwarding/unit/test_newest_first.py"): {
        "ORDER BY id DESC LIMIT": "ORDER BY id LIMIT",
    },
    ("src/common/changes.py", "tests/forwarding/unit/test_level_changed.py"): {
        "        self._move_to_our_levels()\n": "",
        "json.dumps(self._levels or LEVELS_WITH_INSTANCES)": "json.dumps(self._levels)",
        'if data["Level"] not in (self._levels or LEVELS_WITH_INSTANCES):': "if False:",
    },
    ("src/forwarding/intake.py", "tests/forwarding/unit/test_level_changed.py"): {
        "self.feed.take_back(ROUTE)": "pass",
    },
    ("src/forwarding/protection.py", "tests/forwarding/unit/test_protect_beside_idle.py"): {
        "            if is_protected:\n                return  # by whom": "            if True:\n                return  # by whom",
        'self._is_protected(patient), "planned"\n            if is_protected:': 'self._is_protected(patient), "planned"\n            if False:',
    },
    ("src/forwarding/alternates.py", "tests/forwarding/unit/test_alternates_silent_too.py"): {
        "            together = (name, *names)\n": "            found[name] = [*names]\n            together = ()\n",
        'wanted = [own, *of_section.get(row["queue"], ()), *wanted]': "pass",
        'if name in answering and name != row["queue"]': "if name in answering",
        'for name in data["MovedFrom"]:': 'for name in [row["queue"]]:',
    },
    ("src/forwarding/jobs.py", "tests/forwarding/unit/test_same_ae_title.py"): {
        '[row["queue"]] == [': 'row["queue"] in [',
    },
    ("src/forwarding/node_proof.py", "tests/forwarding/unit/test_proofs.py"): {
        'for one in report["Success"] if': 'for one in (*report["Success"], {"SOPInstanceUID": "1.2"}) if',
        'if report["Status"] == "Pending" and abs(': "if False and abs(",
        "COMMITTED_WITHIN:\n        return None": "COMMITTED_WITHIN * 99:\n        return None",
        "return committed & found_by_patient(loopback, name, instances, ours)": "return committed",
    },
    ("src/forwarding/peer_proof.py", "tests/forwarding/unit/test_proofs.py"): {
        'if any(one.get("Origin") == "RestApi"': 'if any(False and one.get("Origin") == "RestApi"',
    },
    ("src/common/changes.py", "tests/forwarding/unit/test_restored_index.py"): {
        'self._ledger.run("UPDATE arrived SET seq=0 WHERE seq>?", place)': "pass",
        "self._set_back(place)\n": "pass\n",
    },
    ("src/common/parameters.py", "tests/forwarding/unit/test_deliveries.py"): {
        "if name not in taken:": "if False:",
        "if not isinstance(value, list) or not value or not all(": "if not isinstance(value, list) or not all(",
    },
    ("src/common/work.py", "tests/forwarding/unit/test_failures.py"): {
        # (i)
        "state='waiting', attempts=attempts-1, next_attempt=0": "state='waiting', next_attempt=0",
    },
    ("src/forwarding/alternates.py", "tests/forwarding/unit/test_alternates.py"): {
        "if to is None or not (senders := self._senders_of(row, answering)):": "if not (senders := frozenset()):",
        "return target_of(row, self._of_section, answering - senders)": "return None",
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
    ("src/auto_forward_modality.py", "tests/forwarding/unit/test_ae_titles.py"): {
        "functools.partial(came_from, aets=AeTitles(configuration))": "came_from",
    },
    ("src/forwarding/node_proof.py", "tests/forwarding/unit/test_ae_titles.py"): {
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
    ("src/forwarding/image_changes.py", "tests/forwarding/unit/test_modify.py"): {
        "if header.text(number) != str(": "if False and header.text(number) != str(",
        'if header.text(tag.number) != value.strip(" \\0"):': "if False:",
        "if left := [tag.name for tag in self.remove if tag.number in header.values]:": "if left := list[str]():",
        "if self.transcode and header.syntax != self.transcode:": "if False:",
        'if not isinstance(value, str) or not value.strip(" \\0"):': "if not isinstance(value, str):",
        "            if complaint := _too_long(tag, value):\n": "            if complaint := None:\n",
        "if tag.number in seen:": "if False:",
        'if not value.isprintable() or value.startswith("data:"):': "if not value.isprintable():",
        'if tag.is_fixed or (key == "Remove" and tag.number == PATIENT_ID_TAG):': "if tag.is_fixed:",
        "return self.number in fixed or group % 2 == 1 or group <= 0x0002": "return group % 2 == 1 or group <= 0x0002",
    },
    ("src/forwarding/dicom_header.py", "tests/forwarding/unit/test_modify.py"): {
        '            raise ValueError("it is cut")\n        yield tag': "            pass\n        yield tag",
    },
    ("src/forwarding/dicom_header.py", "tests/forwarding/unit/test_dicom_header.py"): {
        "if depth > DEEPEST:": "if False:",
        'ENCODINGS.get(charset, "ascii")': '"ascii"',
        '">" if syntax == BIG_ENDIAN else "<"': '"<"',
        'vr == b"UN"\n': "False\n",
    },
    ("src/forwarding/jobs.py", "tests/forwarding/unit/test_modify.py"): {
        'each["ID"] not in taken and not is_changed(row)]': 'each["ID"] not in taken]',
        ' or self._changed.is_under_way(row["id"]):': ":",
    },
    ("src/forwarding/rows.py", "tests/forwarding/unit/test_modify.py"): {
        'same_way and data.get("Modify") == modify and': "same_way and",
    },
    ("src/forwarding/changed.py", "tests/forwarding/unit/test_modify.py"): {
        "progress.instances[:IMAGES_PER_TURN]": "progress.instances",
        "self._rows.note_gone(row, gone)": "pass",
        "if error.status == 404 and not still_here(self._loopback, [instance]):": "if error.status == 404:",
    },
    ("src/forwarding/dispatcher.py", "tests/forwarding/test_modify.py"): {
        "if at_once <= 0 and (is_changed(row) or self._changed.number(name)):": "if False:",
    },
    ("src/forwarding/assignment.py", "tests/forwarding/test_modify.py"): {
        "share._replace(instances=left)": "share._replace(instances=left, rule=ForwardingRule())",
    },
    ("src/forwarding/api.py", "tests/forwarding/unit/test_modify.py"): {
        "if may_get_changed(each, name, self._forwarder.settings):": "if False:",
    },
    ("src/forwarding/settings.py", "tests/forwarding/unit/test_modify.py"): {
        '    if settings.delete_after_forward:\n        return (\n            "Modify': '    if False:\n        return (\n            "Modify',
        "    if not can_modify:": "    if False:",
        "if options.options and may_get_changed(rule, name, settings):": "if False:",
        "return any(destination in alternates.get(name, ()) for name in listed)": "return False",
    },
    ("src/forwarding/engine.py", "tests/forwarding/unit/test_owed.py"): {
        "if not self._intake.has_read:": "if False:",
        "        self._reports.inbox.flush()\n        arriving": "        arriving",
        "return self._owing.of(resources) | arriving": "return self._owing.of(resources)",
        "if self.destinations.is_any_wanted() else": "if True else",
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
        "self._ledger.run(PROTECT, patient, state, until)": "pass",
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
        'if self._is_on else "(1=0 AND': 'if True else "(1=0 AND',
    },
    ("src/forwarding/engine.py", "tests/forwarding/unit/test_protection.py"): {
        "            if self.destinations.is_any_wanted():\n": "            if True:\n",
        "                self._protect_arrived()\n": "",
    },
    ("src/forwarding/deletion.py", "tests/forwarding/unit/test_protection.py"): {
        "if any(map(self._is_by_scripts, protected)):": "if False:",
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
        "some - self._sent.given(share.destination, family, some)": "some",
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
    ("src/forwarding/destinations.py", "tests/forwarding/unit/test_unknown_for_a_moment.py"): {
        "self._next_probe = self._next_trial = 0.0": "self._next_probe = 0.0",
        "self._last |= self._known": "self._last = self._known",
    },
    ("src/forwarding/dispatcher.py", "tests/forwarding/unit/test_unknown_for_a_moment.py"): {
        'self._destinations.health_of(row["queue"]).failed(str(error))': "pass",
    },
    ("src/forwarding/dispatcher.py", "tests/forwarding/unit/test_whole_time.py"): {
        "self._work.give_whole_time(name)": "pass",
    },
    ("src/forwarding/engine.py", "tests/forwarding/unit/test_whole_time.py"): {
        "KEPT_UNTIL_CHECKED_DAYS if context.transport.check else 0.0": "0.0",
        "if (lost := self._reports.inbox.lost) and": "if (lost := 0) and",
    },
    ("src/forwarding/patient_proof.py", "tests/forwarding/unit/test_proofs.py"): {
        "(proved if patient and patients == {patient} else strange).add(instance)": "proved.add(instance)",
        "patient = bare(here[": "patient = ours = bare(here[",
        "if instance is None or not is_part(place, answer):": "if instance is None:",
    },
    ("src/forwarding/peers.py", "tests/forwarding/unit/test_peer_errors.py"): {
        "and public == was:": ":",
    },
    ("src/forwarding/peer_http.py", "tests/forwarding/unit/test_peer_errors.py"): {
        "except (ValueError, http.client.InvalidURL) as error:": "except KeyError as error:",
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
        "is_needed = self._is_under_way(family, some) or": "is_needed =",
        # (b)
        'states = ("waiting", "sending", "dead")': 'states = ("waiting", "sending", "sending")',
        "if self._is_protected(patient)]:": "if False]:",
        " and self._proofs.others_have(row, data, family, instances)": "",
        "self._look_unless_refused(row)\n": "self._look_at(row)\n",
        '*before.get("Destinations", ())': "",
        "elif why := self._others.why_owed(resource):": "elif why := '':",
        ' or self._others.why_owed(row["subject"])': "",
        'if why := owed.get(row["subject"]):': "if why := '':",
        'error = why or (row["error"] if row["attempts"] else "")': "error = ''",
    },
    ("src/forwarding/peers.py", "tests/forwarding/test_identity.py"): {
        "{*instances} - there, short=True": "(), short=True",
        "return there.intersection(instances)": "return there",
        'and isinstance(found.get("ID"), str) and': 'and "ID" in found and',
        'isinstance(found.get("FileUuid", ""), str)': "True",
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
        'self._work.change(row["id"], attempts=1)': "pass",
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
        'if tag.endswith("Date") and any(': "if False and any(",
    },
    ("src/forwarding/destinations.py", "tests/forwarding/unit/test_names.py"): {
        'if entry.get("AET") == name:': "if False:",
        "if self._missing_section and self._known:": "if False:",
        "sorted(self._replaced() - self._known.keys() - wanted)": "[]",
    },
    ("src/forwarding/sent_instances.py", "tests/forwarding/unit/test_forwarder.py"): {
        'given["seq"] >= seq > 0 or': "False or",
    },
    ("src/forwarding/settings.py", "tests/forwarding/unit/test_forwarder.py"): {
        "if key in RESERVED_STORE_OPTIONS]": 'if key == "Permissive"]',
    },
}
