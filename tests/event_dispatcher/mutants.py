# SPDX-License-Identifier: AGPL-3.0-or-later
"""Guards, and single changes that break them: `tests/mutants.py` makes them one at a time, and the tests of this folder notice.

By file and the tests that watch it: the text in the file, which is there once, and what it becomes.
"""

TABLE: dict[tuple[str, str], dict[str, str]] = {
    ("src/event_dispatcher/events.py", "tests/event_dispatcher/test_unfinished_work.py"): {
        "while isinstance(handler, functools.partial):": "while False:",
    },
    ("src/event_dispatcher/dispatcher.py", "tests/event_dispatcher/unit/test_look.py"): {
        "iter(sorted(unhealthy, key=lambda each: each.state == RUNNING))": "iter(unhealthy)",
    },
    ("src/event_dispatcher/loop.py", "tests/event_dispatcher/test_unfinished_work.py"): {
        "{repr_of(error)}": "{error!r}",
    },
    ("src/event_dispatcher/calls.py", "tests/event_dispatcher/test_event_dispatcher.py"): {
        "self.is_over = self.future is not None and not self.future.set_running_or_notify_cancel()": "self.is_over = False",
    },
}
