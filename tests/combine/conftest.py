# SPDX-License-Identifier: AGPL-3.0-or-later
"""An observer of what scripts do on the stand-in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.combine.observe import Observer, observing


@pytest.fixture(scope="module")
def observer() -> Iterator[Observer]:
    with observing() as one:
        yield one
