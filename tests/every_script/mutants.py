# SPDX-License-Identifier: AGPL-3.0-or-later
"""Of each script two guards at least, and changes that break them: a unit test notices each, without a server.

As the tables of the scripts' own folders (`tests/mutants.py`); `tests/test_mutants.py` counts them.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/anonymize_series/checks.py", "tests/anonymize_series/unit/test_guards.py"): {
        'if burned == "YES":': "if False:",
        "if not is_image and not recipe.allow_non_images:": "if False:",
        'if set(values) & by_tag.get(int(element.tag), set()):\n            return f"{name} has': (
            'if False:\n            return f"{name} has'
        ),
    },
    ("src/anonymize_series/written_forms.py", "tests/anonymize_series/unit/test_written_forms.py"): {
        "if 1 < len(part) < shortest:": "if False:",
    },
    ("src/audit_log/verification.py", "tests/audit_log/unit/test_chain.py"): {
        "elif number > self.number + 1:": "elif False:",
        "if number <= self.number:": "if False:",
        "if self._newest and number == self._newest[0] and line.mac != self._newest[1]:": "if False:",
    },
    ("src/audit_log/lines.py", "tests/audit_log/unit/test_chain.py"): {
        "if not isinstance(content, dict) or not isinstance": "if not isinstance(content, dict) and not isinstance",
    },
    ("src/audit_log/writer.py", "tests/audit_log/unit/test_chain.py"): {
        "if self._expiry.may_delete():": "if True:",
    },
    ("src/auto_forward_dicomweb.py", "tests/forwarding/unit/test_entries.py"): {
        "STORE_OPTIONS, can_modify=False):": "STORE_OPTIONS):",
        "return self.verify": "return True",
    },
    ("src/auto_forward_modality.py", "tests/forwarding/unit/test_proofs.py"): {
        'return bool(content.get("RemoteAet") == destination["AET"])': "return True",
        "proof = options.proof if options else DestinationOptions.proof": "proof = DestinationOptions.proof",
    },
    ("src/auto_forward_modality.py", "tests/forwarding/unit/test_entries.py"): {
        "{urllib.parse.quote(name, safe='')}/store-straight": "{name}/store-straight",
    },
    ("src/auto_forward_peer.py", "tests/forwarding/unit/test_entries.py"): {
        "if options and options.verify:": "if False:",
        "    peers.check(name)\n": "",
    },
    ("src/auto_forward_peer.py", "tests/forwarding/unit/test_proofs.py"): {
        'return bool(url_of_peer(content).rstrip("/") == destination["Url"].rstrip("/"))': "return True",
        "return proved_by_peer(peers, name, instances)": "return {*instances}",
    },
    ("src/auto_retries/recipes.py", "tests/auto_retries/unit/test_recipes.py"): {
        "if len(levels) != 1 or None in levels:": "if not levels:",
        'return _retrieve(content) if content.get("TargetAet") else None': "return _retrieve(content)",
        "resources = instances if is_whole else": "resources = instances if instances else",
    },
    ("src/auto_retries/failures.py", "tests/auto_retries/unit/test_guards.py"): {
        'if same := self._work.unfinished_with("Digest", data["Digest"]):': "if same := {}:",
    },
    ("src/cmove_interceptor/planning.py", "tests/cmove_interceptor/unit/test_planning.py"): {
        "for share in shares if share] + pieces": "for share in shares if share]",
        "or not self._archive.may_name_images(count):": "or False:",
        'if level == "INSTANCE" or self._associations == 1:': "if self._associations == 1:",
    },
    ("src/combine/reading.py", "tests/combine/unit/test_guards.py"): {
        '{"..", ""} & set(name.split("/")) or': "",
        "if (folder / name).exists() and read(folder / name) != data:": "if False:",
    },
    ("src/combine/runtime/files.py", "tests/combine/unit/test_guards.py"): {
        "if hashlib.sha256(data).hexdigest() != digest:": "if False:",
    },
    ("src/combine/configuration.py", "tests/combine/unit/test_guards.py"): {
        "            if key in whole:": "            if False:",
        "elif value in names:": "elif False:",
    },
    ("src/dashboard/files.py", "tests/dashboard/unit/test_files.py"): {
        '    "X-Frame-Options": "SAMEORIGIN",\n': "",
        "form-action 'self'; frame-ancestors 'self'": "form-action 'self'",
    },
    ("src/dicom_events/outbox.py", "tests/dicom_events/unit/test_outbox.py"): {
        "self.ledger.check()  # what": "pass  # what",
        "                if size > PAGE_BYTES:": "                if False:",
    },
    ("src/event_dispatcher/gate.py", "tests/event_dispatcher/unit/test_guards.py"): {
        "if not self.is_open:": "if False:",
        "self._changed.wait_for(lambda: not self._inside)": "pass",
    },
    ("src/event_dispatcher/at_least_once.py", "tests/event_dispatcher/unit/test_guards.py"): {
        'if not re.fullmatch(r"[\\w-]+", self.name):': "if False:",
    },
    ("src/event_dispatcher/subscriptions.py", "tests/event_dispatcher/unit/test_guards.py"): {
        "if self.handlers.setdefault(queue_name, handler) is handler:": "if self.handlers.setdefault(queue_name, handler):",
    },
    ("src/instance_dump.py", "tests/instance_dump/unit/test_guards.py"): {
        'headers={"X-Content-Type-Options": "nosniff"}': "headers={}",
        "if error.status == 404:": "if True:",
    },
    ("src/purge_old_studies/conditions.py", "tests/purge_old_studies/unit/test_conditions.py"): {
        "    if day > today:": "    if False:",
        "        if tag not in QUERY_TAGS:": "        if False:",
        'if any(not part.strip("* ") for part in value.split("\\\\")):': "if not value:",
        'if ("since" in found) == ("older-than" in found):': 'if "since" not in found and "older-than" not in found:',
    },
    ("src/series_private_tags/routes.py", "tests/series_private_tags/unit/test_asked.py"): {
        "    if not is_orthanc_identifier(text):": "    if False:",
        "        if len(asked) > 1:": "        if False:",
    },
    ("src/series_private_tags/entries.py", "tests/series_private_tags/unit/test_asked.py"): {
        "if len(data) > MAX_SEARCHED_BYTES or": "if",
    },
    ("src/series_thumbnail/cache.py", "tests/series_thumbnail/unit/test_cache.py"): {
        "while self.bytes > self._max_bytes and self._entries:": "while False:",
        "picture.checked, picture.archive = -math.inf, None": "picture.checked = 0.0",
        "self._entries.get(resource, {}).get(options) is picture and": "",
    },
}
