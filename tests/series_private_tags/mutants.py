# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
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
    ("src/series_private_tags/dicom_file.py", "tests/series_private_tags/unit/test_vr_un.py"): {
        'if tag in PUBLIC and vr == b"UN" and not implicit:': "if False:",
    },
    ("src/series_private_tags/values.py", "tests/series_private_tags/unit/test_vr_un.py"): {
        'content(tag).decode("ascii", "replace") if value is None else str(value)': 'str(value or "")',
    },
    ("src/series_private_tags/values.py", "tests/series_private_tags/test_every_syntax.py"): {
        'DEFAULT_ENCODINGS.get(default_encoding, "ascii")': '"ascii"',
        "value is None or (isinstance(value, str) and CONTROL.search(value))": "value is None",
    },
    ("src/series_private_tags/stored.py", "tests/series_private_tags/test_every_syntax.py"): {
        "group > PIXELS_GROUP and content.startswith(ITEM)": "group < 0",
    },
    ("src/series_private_tags/archive.py", "tests/series_private_tags/test_every_syntax.py"): {
        "if not wanted.behind_pixels:": "if True:",
    },
}
