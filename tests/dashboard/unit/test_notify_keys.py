# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is half filled in `Notify` is one ERROR line that names the key: nobody waits for mails that never come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
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


def test_a_mail_server_that_is_not_there_is_named(
    start: Callable[..., Any],
) -> None:
    """Its error alone (`Connection refused`) does not say who refused."""
    senders = start("dashboard", {}).module.senders
    target = senders.MailTarget(host="127.0.0.1", port=1, security="none", sender="a@b", recipients=("a@b",))
    row = {"alert": "dead:a:b", "text": "3 failed", "number": 3, "began": 0.0, "ended": None, "changed": 7}
    begun = [{"Alert": "dead:a:b", "Text": "3 failed", "Count": 3, "Since": "2026-01-31T13:00:00.000Z"}]
    with pytest.raises(senders.NotSentError, match=r"^127\.0\.0\.1, port 1: ConnectionRefusedError"):
        senders.MailSender(target, Path("/")).send(senders.Message(begun, [], [row]), "Radiology")
