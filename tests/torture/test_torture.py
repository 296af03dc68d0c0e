# SPDX-License-Identifier: AGPL-3.0-or-later
"""The short form of `make torture`: some disturbances while studies flow through all scripts, and an account in the end."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.torture.run import torture

SOME = ["kill", "full-state", "destination-cuts", "broker-killed"]


# pynetdicom leaves a socket to the collector where nobody listens, and here servers are killed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(600)  # RabbitMQ alone takes minutes to start on a machine that is busy enough
def test_nothing_is_lost_or_deleted_wrongly_whatever_happens(tmp_path: Path) -> None:
    account = torture(tmp_path, random.Random(7), seconds=12, only=SOME)
    assert account.is_right, f"\n{account}"
