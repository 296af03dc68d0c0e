# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is half filled in `Notify` is one ERROR line that names the key: nobody waits for mails that never come."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from testing.standin import StandIn

MAIL = {"Host": "m", "From": "a@b", "Recipients": ["a@b"]}


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({}, "Dashboard.Notify.Mail or Notify.Webhook is needed"),
        ({"AfterMinutes": 15, "Mail": None}, "Dashboard.Notify.Mail or Notify.Webhook is needed"),
        (
            {"Mail": {**MAIL, "CACertificate": "/no/such/file"}},
            "Dashboard.Notify.Mail.CACertificate: /no/such/file can't be read",
        ),
        (
            {"Webhook": {"URL": "https://x", "CACertificate": "/no/such/file"}},
            "Dashboard.Notify.Webhook.CACertificate: /no/such/file can't be read",
        ),
    ],
)
def test_an_error_names_the_key_of_notify(
    start: Callable[..., Any], orthanc_standin: StandIn, section: dict[str, Any], line: str
) -> None:
    start("dashboard", {"Dashboard": {"Notify": section}})
    [error] = [text for level, text in orthanc_standin.logs if level == "error"]
    assert error.startswith(line)
    assert error.endswith("dashboard is idle until this is corrected.")
