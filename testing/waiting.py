# SPDX-License-Identifier: AGPL-3.0-or-later
"""Waiting for a condition: as long as it takes, and no longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 30, what: str = "") -> T:
    """Ask `condition` until it is true, and give its value.

    Raises
    ------
    TimeoutError : it was not within `timeout` seconds; it names `what`, or the condition.
    """
    deadline, pause = time.monotonic() + timeout, 0.01
    while not (value := condition()):
        if time.monotonic() > deadline:
            what = what or getattr(condition, "__name__", "the condition")
            raise TimeoutError(f"{timeout:g} s were not enough for: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
    return value
