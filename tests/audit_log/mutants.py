# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/audit_log/search.py", "tests/audit_log/unit/test_search.py"): {
        "max(self.latest, at)": "at",
        "in_span = self.since <= block.earliest and": "in_span =",
        "(not self.until or block.earliest < self.until)": "True",
        "block.summary.newest > after": "True",
        "(entry := _entry_of(raw)) and asked.includes(entry)": "(entry := _entry_of(raw))",
        'found.content if found and isinstance(found.content.get("At"), str) else None': "found.content if found else None",
        "if (entry := _entry_of(line)) is None:": "if (entry := getattr(parse_line(line), 'content', None)) is None:",
        "            except FileNotFoundError:  # deleted meanwhile": "            except ZeroDivisionError:",
        "{*list(self._indexes)}.difference(files)": "()",
    },
    ("src/common/line_index.py", "tests/audit_log/unit/test_search.py"): {
        "        with self._lock:\n            self._file = None": "        with self._lock:\n            pass",
        "if self._end - begun >= most:": "if False:",
    },
    ("src/audit_log/missed.py", "tests/audit_log/unit/test_missed.py"): {
        'bool(ledger.get_value("is_running"))': "False",
        'if not self._places.is_kept(place["Study"]):': "if False:",
        "if self._place < self._end:": "if False:",
        "newest if self._kept < 0 else place_in_log(": "0 if self._kept < 0 else place_in_log(",
        'self._ledger.set_value("is_running", 0)': "pass",
    },
    ("src/audit_log/places.py", "tests/audit_log/unit/test_missed.py"): {
        "        self._deleted[resource] = None\n": "        self._deleted[resource] = None\n        self.forget_deleted()\n",
    },
    ("src/audit_log/recorder.py", "tests/audit_log/unit/test_missed.py"): {
        "if self._settings.reconcile and": "if",
    },
    ("src/audit_log/recorder.py", "tests/audit_log/unit/test_guards.py"): {
        "if lost := self._inbox.lost:": "if lost := 0:",
    },
    ("src/audit_log/verification.py", "tests/audit_log/unit/test_guards.py"): {
        # (d)
        "if self._first > self._dropped_up_to + 1:": "if False:",
        "if self._newest and self.number < self._newest[0]:": "if False:",
        "elif not hmac.compare_digest(": "elif False and not hmac.compare_digest(",
        "except (OSError, UnicodeDecodeError) as error:": "except ZeroDivisionError as error:",
    },
    ("src/audit_log/log.py", "tests/audit_log/unit/test_guards.py"): {
        ', "Previous": self.mac}\n            self.append': "}\n            self.append",
    },
    ("src/audit_log/events.py", "tests/audit_log/unit/test_dicomweb_pushes.py"): {
        'content.get("RemoteAet") or content.get("Server")': 'content.get("RemoteAet")',
        'by_level.pop("Instances", ())': '(by_level.pop("Instances", ()), ())[1]',
    },
    ("src/audit_log/settings.py", "tests/audit_log/unit/test_guards.py"): {
        'growing = path.with_name(f"{path.name}.new")': "growing = path",
    },
    ("src/common/inbox.py", "tests/audit_log/unit/test_guards.py"): {
        "self.lost += 1": "pass",
    },
    ("src/audit_log/events.py", "tests/audit_log/unit/test_watching.py"): {
        "self._deleters.note(seen.deletes, seen.who)": "pass",
        "if not is_written:": "if False:",
        'if seen.acts and "Script" not in seen.who:': "if seen.acts:",
    },
    ("src/audit_log/deleters.py", "tests/audit_log/unit/test_watching.py"): {
        "if who and at > time.monotonic() - REMEMBERED_SECONDS:": "if who:",
    },
    ("src/audit_log/watching.py", "tests/audit_log/unit/test_watching.py"): {
        r'r"^/purge-old-studies/?$"': r'r"^/never$"',
        "|pydicom/|": "|",
        'r"(?i:7fe0': 'r"(?:7fe0',
        "content/(?:[^/]+/[0-9]+/)*": "content/",
        "(?:Float|DoubleFloat)?PixelData|": "",
        "root, wado = map(re.escape, dicomweb_paths(configuration))": 'root, wado = "/dicom-web", "/wado"',
        "if READ_BY_POST.match(uri) or not self": "if not self",
    },
    ("src/audit_log/watching.py", "tests/audit_log/unit/test_queries.py"): {
        'if name in KNOWN_PARAMETERS else "***"': "",
    },
    ("src/audit_log/repository.py", "tests/audit_log/unit/test_syslog.py"): {
        "gone = max(0, files[0][0] - number - 1) if files else 0": "gone = 0",
        "if head and int(head[1]) > newest:": "if False:",
        "if 0 <= found <= newest:": "if 0 <= found:",
        "if not self.trouble.text and not self._stopping.is_set():": "if not self._stopping.is_set():",
        "self._receiver.cut()": "pass",
        "text = None\n": "raise\n",
    },
    ("src/audit_log/syslog.py", "tests/audit_log/unit/test_tls_delivery.py"): {
        'context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)': "pass",
    },
    ("src/audit_log/tls_delivery.py", "tests/audit_log/unit/test_tls_delivery.py"): {
        "            step(lambda: secured.read(RECEIVED_BYTES))": "            return step(secured.unwrap)",
        "if time.monotonic() > ends_at:": "if False:",
    },
    ("src/audit_log/dicom_audit.py", "tests/audit_log/unit/test_syslog.py"): {
        'return NOT_IN_XML.sub("\\ufffd", str(value))[:LONGEST_TEXT]': "return str(value)[:LONGEST_TEXT]",
        '.search(route) and "Script" not in line:': ".search(route):",
        'if line.get("StudyInstanceUID") else None': "if True else None",
    },
    ("src/audit_log/settings.py", "tests/audit_log/unit/test_syslog.py"): {
        "if self.to is None and given != SyslogSettings():": "if False:",
        "elif self.to is not None and not given.host:": "elif False:",
        "elif (given.key_file or given.key_password) and not given.certificate_file:": "elif False:",
    },
    ("src/audit_log/recorder.py", "tests/audit_log/test_syslog.py"): {
        "self.sender.stop()": "pass",
    },
}
