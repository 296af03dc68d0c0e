# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/series_thumbnail/renderer.py", "tests/series_thumbnail/unit/test_guards.py"): {
        "except (KeyError, ValueError):": "except ZeroDivisionError:",
    },
    ("src/series_thumbnail/drawing.py", "tests/series_thumbnail/unit/test_guards.py"): {
        "if not task.spoiled:\n                    self._cache.put": "if True:\n                    self._cache.put",
        "if picture.count in (None, count):": "if True:",
        "self._cache.drop(resource)": "pass",
    },
    ("src/series_thumbnail/windows.py", "tests/series_thumbnail/test_windows.py"): {
        " or width < 1:": ":",
        "window = own or _group_window(shared)": "window = own",
        "if not padding or not padding[0] <= value <= padding[1]": "if True",
        "slope, intercept = _rescaling(shared) or orthanc_values": "slope, intercept = orthanc_values",
    },
    ("src/series_thumbnail/renderer.py", "tests/series_thumbnail/test_windows.py"): {
        "if width < 1:  # which": "if False:  # which",
        "if is_plain and (longest <= options.size or not self._has_pillow):": "if is_plain:",
        "if greys and greys.form:": "if False:",
    },
    ("src/series_thumbnail/renderer.py", "tests/series_thumbnail/test_useless_windows.py"): {
        "if drawing and greys and has_window": "if False and has_window",
        "greys and (greys.window or greys.by_orthanc)": "greys and greys.by_orthanc",
        "better if better and not is_flat(better) else drawing": "better",
    },
    ("src/series_thumbnail/renderer.py", "tests/series_thumbnail/test_neighbours.py"): {
        "if error.status != 404:\n                raise\n            self._loopback.get(path)": "if True:\n                raise",
    },
    ("src/series_thumbnail/source.py", "tests/series_thumbnail/test_neighbours.py"): {
        "(middle, middle + 1, middle - 1, middle // 2, 0)": "(middle,)",
        '_measures(tags, "PerFrameFunctionalGroupsSequence", frame),': "",
    },
    ("src/series_thumbnail/chooser.py", "tests/series_thumbnail/test_neighbours.py"): {
        "[:MAX_SERIES]": "[:8]",
    },
    ("src/series_thumbnail/routes.py", "tests/series_thumbnail/unit/test_guards.py"): {
        "if not is_orthanc_identifier(resource):": "if False:",
    },
}
