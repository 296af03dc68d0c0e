# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/anonymize_series/anonymizer.py", "tests/anonymize_series/unit/test_level_changed.py"): {
        "self._feed.take_back(ROUTE)": "pass",
    },
    ("src/anonymize_series/copies.py", "tests/anonymize_series/test_hiding_places.py"): {
        "    if why := clean_pixels(copy, original, kept):\n        return why\n": "",
        "        del copy[tag]  # overlays may show names": "        pass",
    },
    ("src/anonymize_series/pixel_data.py", "tests/anonymize_series/unit/test_pixel_data.py"): {
        "element.tag not in PIXELS or int(element.tag) in kept or": "element.tag not in PIXELS or",
        "elif len(path) == 1 and _is_compressed(syntax):": "elif False:",
        "    if overlays:\n        raise": "    if False:\n        raise",
        "if len(frames) != expected:": "if False:",
        "if not all(starts_frame(": "if False and not all(starts_frame(",
        "if table.stop > table.start and value[table] !=": "if False and value[table] !=",
        "    if any(tail):": "    if False:",
        "if len(tail) * 8 >= bits:": "if False:",
        "if (group, 0x3000) not in dataset]": "]",
        "if at or (bits or 1) != 1]": "]",
        'b"".join(map(unused.blanked, blocks))': "value",
    },
    ("src/anonymize_series/unused_bits.py", "tests/anonymize_series/unit/test_pixel_data.py"): {
        "if any(not self.mask >> bit & 1 for bit in overlays):": "if False:",
        "return not self._has_overlays and": "return",
        " and not uneven": "",
        "        if self._are_used:": "        if False:",
        "and value & sign == sign": "",
        "(pixels ^ found | extended)": "(pixels ^ found)",
        "found == extended or self._is_half_extended(found, extended, count)": "found == extended",
    },
    ("src/anonymize_series/codestreams.py", "tests/anonymize_series/unit/test_pixel_data.py"): {
        '(0xE0, b"JFIF\\0", 12), (0xEE, b"Adobe", 12),': '(0xE0, b"JFIF\\0", 12),',
        "            return blank(frame, at + 2, len(frame))": "            return None",
        "            return blank(frame, at + 2, end)": "            return None",
        "            blank(frame, start + 4, at)": "            pass",
        "            return blank(frame, end, len(frame))": "            return None",
        "            blank(frame, at + header, end)": "            pass",
        "    blank(frame, 4 * (1 + count), offsets[0])": "",
        "if frame[start:at].translate(None, allowed):": "if False:",
        "JPEG_2000_FIRST_END.search(frame, at + length, end)": "None",
    },
    ("src/anonymize_series/checks.py", "tests/anonymize_series/unit/test_pixel_data.py"): {
        "        if needle in self._foreign:": "        if False:",
    },
    ("src/anonymize_series/checks.py", "tests/anonymize_series/unit/test_other_writings.py"): {
        "        if element.tag in PIXELS:": "        if False:",
        " or encoded in wide:": ":",
        "for form in (part.lower(), folded(part))}": "for form in (part.lower(),)}",
        "{plain(part) for part in parts if len(folded(part)) >= MIN_SEARCHED_CHARACTERS}": "set()",
        "if len(folded(part)) >= MIN_SEARCHED_CHARACTERS}": "}",
        "'' if text.isascii() else plain(text)": "''",
        "data[max(0, start - OVERLAP_BYTES) :": "data[start:",
        "for form in forms if len(form) >= MIN_SEARCHED_CHARACTERS": "for form in forms if form",
        "for _, _, element in elements_of(dataset):  # an item": "for element in dataset:  # an item",
    },
    ("src/anonymize_series/anonymizer.py", "tests/anonymize_series/test_rules.py"): {
        "dicomweb_servers_route(self._configuration)": "dicomweb_servers_route({})",
    },
    ("src/anonymize_series/written_forms.py", "tests/anonymize_series/unit/test_other_writings.py"): {
        r'r"[\^=\s,;._/()-]+"': r'r"[\^=\s]+"',
        'component.replace(",", " ").split()': "component.split()",
        'return unicodedata.normalize("NFKC", text).casefold()': "return text.lower()",
        "folded(text).translate(IN_ASCII)": "folded(text)",
        'LATIN_MARKS.sub("", decomposed)': "decomposed",
    },
    ("src/anonymize_series/checks.py", "tests/anonymize_series/unit/test_written_forms.py"): {
        '[*forms_of_date(value)] if element.VR in ("DA", "DT") else []': "[]",
        "if self._short.in_values(values) else None": "if False else None",
        "            if self._short.in_bytes(reading):": "            if False:",
    },
    ("src/anonymize_series/written_forms.py", "tests/anonymize_series/unit/test_written_forms.py"): {
        'name.split("=")': "[name]",
        'group.split("^")[:NAME_COMPONENTS]': 'group.split("^")',
        'rf"\\b{re.escape(one)}': 'rf"{re.escape(one)}',
    },
    ("src/anonymize_series/anonymizing.py", "tests/anonymize_series/unit/test_one_that_fails.py"): {
        "if error.status in (400, 415, 501) or": "if",
        " or error.code in OF_THE_FILE:": ":",
        "and attempt >= MOST_ATTEMPTS and": "and attempt >= 1 and",
        " and error.code not in OF_THE_SERVER": "",
        "            except MemoryError:\n                raise\n            except": "            except",
        "            if not _is_lasting(error, attempt):\n                raise\n            return False": "            return False",
        "elif recipe.whole and makes:": "elif False:",
    },
    ("src/anonymize_series/anonymizing.py", "tests/anonymize_series/test_held_back.py"): {
        " or self._is_fault_of(recipe, instance, attempt)": "",
        "        if recipe.whole:": "        if False:",
        "                if not makes:\n                    continue": "                if False:\n                    continue",
    },
    ("src/anonymize_series/anonymizing.py", "tests/anonymize_series/test_missing_files.py"): {
        "or not self._reads_any(instances)": "",
    },
    ("src/anonymize_series/anonymizing.py", "tests/anonymize_series/unit/test_missing_file.py"): {
        "if self._archive.level_of(instance) is None:": "if True:",
        "is_lasting = error.code in OF_THE_FILE or": "is_lasting =",
    },
    ("src/anonymize_series/checks.py", "tests/anonymize_series/unit/test_terms.py"): {
        "        and element.VR in pydicom.datadict.dictionary_VR(element.tag).split()\n": "",
        "        pydicom.datadict.dictionary_has_tag(element.tag)\n": "        True\n",
        'if element.VR == "CS" and (what': 'if element.VR == "" and (what',
        "if len(words & name) >= MIN_WORDS_IN_TERM:": "if words & name:",
        'if len(needle) >= MIN_CHARACTERS_IN_TERM and re.search("[0-9]", needle)': "if len(needle) >= MIN_CHARACTERS_IN_TERM",
    },
    ("src/anonymize_series/checks.py", "tests/anonymize_series/test_held_back.py"): {
        '("CS", *COUNTERS) and _is_of_its_vr(element)': '("CS", *COUNTERS)',
        'if element.VR in ("CS", *COUNTERS) and': "if False and",
    },
    ("src/anonymize_series/anonymizing.py", "tests/anonymize_series/unit/test_guards.py"): {
        "self._register.study_of_copy(study_uid) is not None or": "False or",
    },
    ("src/anonymize_series/attempts.py", "tests/anonymize_series/unit/test_dropped.py"): {
        'if not self._work.claim(row["id"]):': 'if self._ledger.start(row["id"]):',
    },
    ("src/anonymize_series/checks.py", "tests/anonymize_series/unit/test_guards.py"): {
        "return not any(value and value in str(element.value) for value in before)": "return True",
        "or _is_our_method(element, original):": "or False:",
        # (c)
        "if needle in text or encoded in small or encoded in wide:": "if needle in text:",
        'if burned != "NO" and PRONE': "if burned and PRONE",
    },
    ("src/anonymize_series/checks.py", "tests/anonymize_series/unit/test_basic_profile.py"): {
        "if is_dummy(element) or": "if",
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
