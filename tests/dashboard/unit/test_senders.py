# SPDX-License-Identifier: AGPL-3.0-or-later
"""dashboard/senders.py and notifying.py: real mails by TLS, real POSTs, and what happens where they are refused."""

from __future__ import annotations

import hashlib
import hmac
import importlib
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from testing.standin import StandIn
from tests.dashboard.mails import PASSWORD, mail_server, make_certificate
from tests.fakes import SRC, eventually

ROW = {"alert": "dead:a:b", "text": "3 failed", "number": 3, "began": 0.0, "ended": None, "changed": 7}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def parts(orthanc_standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The modules, whose waits are real ones."""
    ours = [name for name in sys.modules if name.partition(".")[0] in ("common", "dashboard")]
    kept = {name: sys.modules.pop(name) for name in ours}
    monkeypatch.syspath_prepend(str(SRC))
    orthanc_standin.returns["ExtendOrthancExplorer"] = None
    names = ("senders", "notify", "notify_settings", "notifying")
    yield SimpleNamespace(**{name: importlib.import_module(f"dashboard.{name}") for name in names})
    for name in [name for name in sys.modules if name.partition(".")[0] in ("common", "dashboard")]:
        del sys.modules[name]
    sys.modules |= kept


def message(parts: SimpleNamespace, **row: Any) -> Any:
    rows = [{**ROW, **row}]
    begun = [{"Alert": "dead:a:b", "Text": rows[0]["text"], "Count": 3, "Since": "2026-01-31T13:00:00.000Z"}]
    return parts.notify.Message(begun, [], rows)


def mail_sender(parts: SimpleNamespace, port: int, folder: Path, **more: Any) -> Any:
    given = {
        "host": "127.0.0.1",
        "port": port,
        "user": "orthanc",
        "password": PASSWORD,
        "sender": "orthanc@hospital.example",
    }
    target = parts.notify_settings.MailTarget(
        **{**given, "recipients": ("anna@hospital.example", "bob@hospital.example"), **more}
    )
    return parts.senders.MailSender(target, folder)


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_mail_arrives_over_tls_with_a_login(parts: SimpleNamespace, certificate: Path, security: str) -> None:
    with mail_server(certificate, security=security) as server:
        sender = mail_sender(parts, server.port, certificate.parent, security=security, ca_certificate="mail.pem")
        sender.send(message(parts), "PACS 1")
    [mail] = server.mails
    assert server.logins == [("orthanc", PASSWORD)]
    assert mail.rcpt_tos == ["anna@hospital.example", "bob@hospital.example"]
    text = mail.content.decode()
    assert "Subject: Orthanc PACS 1: 1 needs a person\r\n" in text
    assert "3 failed (since 2026-01-31T13:00:00.000Z)" in text
    assert "Auto-Submitted: auto-generated" in text
    assert "Message-ID: <7.1.orthanc-dashboard@hospital.example>" in text


def test_a_wrong_password_is_said_without_it(parts: SimpleNamespace, certificate: Path) -> None:
    with mail_server(certificate) as server:
        sender = mail_sender(parts, server.port, certificate.parent, ca_certificate="mail.pem", password="wrong one")  # noqa: S106
        with pytest.raises(parts.senders.NotSentError, match=r"refuses User and Password \(code 535\)") as found:
            sender.send(message(parts), "PACS")
    assert "wrong one" not in str(found.value)
    assert (server.mails, {*server.logins}) == ([], {("orthanc", "wrong one")})


def test_nothing_goes_out_in_clear_or_to_somebody_else(parts: SimpleNamespace, certificate: Path) -> None:
    with mail_server(certificate) as server:
        stranger = mail_sender(parts, server.port, certificate.parent)  # whom the system trusts: not this one
        with pytest.raises(parts.senders.NotSentError, match="CERTIFICATE_VERIFY_FAILED"):
            stranger.send(message(parts), "PACS")
    with mail_server(None) as plain:  # which offers no STARTTLS: somebody may have taken that out
        sender = mail_sender(parts, plain.port, certificate.parent, ca_certificate="mail.pem")
        with pytest.raises(parts.senders.NotSentError, match="STARTTLS"):
            sender.send(message(parts), "PACS")
    assert (server.mails, server.logins, plain.mails, plain.logins) == ([], [], [], [])


def test_in_clear_where_that_is_configured_without_a_password(parts: SimpleNamespace, tmp_path: Path) -> None:
    with mail_server(None) as server:
        sender = mail_sender(parts, server.port, tmp_path, security="none", user=None, password=None)
        sender.send(message(parts), "PACS\r\nBcc: all@hospital.example")
    [mail] = server.mails
    assert mail.rcpt_tos == ["anna@hospital.example", "bob@hospital.example"]
    assert "\r\nBcc:" not in mail.content.decode()


def test_one_whom_the_server_does_not_know_keeps_it_from_nobody_else(parts: SimpleNamespace, tmp_path: Path) -> None:
    with mail_server(None, refuses=("bob@hospital.example",)) as server:
        sender = mail_sender(parts, server.port, tmp_path, security="none", user=None, password=None)
        with pytest.raises(parts.senders.PartlySentError, match=r"bob@hospital\.example: 550 nobody here"):
            sender.send(message(parts), "PACS")
    assert [mail.rcpt_tos for mail in server.mails] == [["anna@hospital.example"]]
    with mail_server(None, refuses=("anna@hospital.example", "bob@hospital.example")) as server:
        sender = mail_sender(parts, server.port, tmp_path, security="none", user=None, password=None)
        with pytest.raises(parts.senders.NotSentError, match="takes nothing for anna"):
            sender.send(message(parts), "PACS")


class Receiver:
    """A real server of HTTP that keeps what is posted; each answer is the next of `statuses`, the last one again and again."""

    def __init__(self) -> None:
        self.statuses, self.posts = [200], list[tuple[str, dict[str, str], bytes]]()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.posts.append((self.path, {key.lower(): value for key, value in self.headers.items()}, body))
                status = receiver.statuses.pop(0) if len(receiver.statuses) > 1 else receiver.statuses[0]
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


def webhook(parts: SimpleNamespace, url: str, **more: Any) -> Any:
    return parts.senders.WebhookSender(parts.notify_settings.WebhookTarget(url=url, **more), Path())


def test_a_post_arrives_signed_with_what_began(parts: SimpleNamespace, receiver: Receiver) -> None:
    url = receiver.url.replace("://", "://us%40er:p%3Aw@") + "/hook?x=1"
    sender = webhook(parts, url, secret="s3cret")  # noqa: S106
    sender.send(message(parts), "PACS")
    [(path, headers, body)] = receiver.posts
    content = json.loads(body)
    assert (path, content["Orthanc"], content["Over"]) == ("/hook?x=1", "PACS", [])
    assert content["Begun"] == [
        {"Alert": "dead:a:b", "Text": "3 failed", "Count": 3, "Since": "2026-01-31T13:00:00.000Z"}
    ]
    assert content["text"] == "Orthanc PACS: 1 needs a person\n3 failed (since 2026-01-31T13:00:00.000Z)"
    assert headers["authorization"] == "Basic dXNAZXI6cDp3"
    assert headers["idempotency-key"] == "7.1"
    signed = headers["x-dashboard-timestamp"].encode() + b"." + body
    assert headers["x-dashboard-signature"] == f"sha256={hmac.new(b's3cret', signed, hashlib.sha256).hexdigest()}"


@pytest.mark.parametrize("status", [302, 404, 500])
def test_no_redirect_is_followed_and_no_refusal_counts_as_sent(
    parts: SimpleNamespace, receiver: Receiver, status: int
) -> None:
    receiver.statuses = [status]
    with pytest.raises(parts.senders.NotSentError, match=f"HTTP {status}"):
        webhook(parts, f"{receiver.url}/hook").send(message(parts), "PACS")
    assert [path for path, _, _ in receiver.posts] == ["/hook"]


def test_an_address_that_nobody_has_is_said_without_it(parts: SimpleNamespace) -> None:
    with pytest.raises(parts.senders.NotSentError) as found:
        webhook(parts, "http://127.0.0.1:9/token-1234", timeout=1).send(message(parts), "PACS")
    assert "1234" not in str(found.value)


class Waiting:
    """Notices of one channel: what is to be sent, and what was."""

    def __init__(self, parts: SimpleNamespace) -> None:
        self._parts, self.rows, self.noted, self.last = parts, [1], list[Any](), 0.0

    def last_sent(self, _channel: str) -> float:
        return self.last

    def has_pending(self, _channel: str) -> bool:
        return bool(self.rows)

    def message(self, _channel: str) -> Any:
        return message(self._parts, changed=self.rows[0]) if self.rows else None

    def sent(self, _channel: str, sent: Any) -> None:
        self.noted.append(sent)
        self.rows.pop(0)


class Sender:
    """Fails as often as a test says."""

    def __init__(self, *faults: Exception) -> None:
        self.faults, self.tries = [*faults], 0

    def send(self, _message: Any, _server: str) -> None:
        self.tries += 1
        if self.faults:
            raise self.faults.pop(0)

    def close(self) -> None:
        """Hold nothing."""


def channel(parts: SimpleNamespace, notices: Any, sender: Any) -> Any:
    return parts.notifying.Channel("mail", sender, notices, "PACS")


def test_a_server_that_is_away_is_tried_again_and_said_once(
    parts: SimpleNamespace, orthanc_standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts.notifying, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(parts.notifying, "LONGEST_PAUSE_SECONDS", 0.01)
    notices, sender = Waiting(parts), Sender(*(parts.senders.NotSentError("it is away") for _ in range(5)))
    made = channel(parts, notices, sender)
    made.start()
    eventually(lambda: notices.noted)
    made.stop()
    assert (sender.tries, len(notices.noted)) == (6, 1)
    assert [text for _, text in orthanc_standin.logs] == [
        "dashboard can't notify by mail, and tries again: it is away",
        "dashboard goes on, this is over: it is away",
    ]


def test_pauses_grow_and_begin_again_when_it_is_back(parts: SimpleNamespace) -> None:
    faults = [parts.senders.NotSentError("away") for _ in range(12)]
    made = channel(parts, Waiting(parts), Sender(*faults))
    pauses = [made._send() for _ in faults]
    assert pauses[:4] == [15, 30, 60, 120]
    assert pauses[-1] == 1800
    assert made._send() == 0
    assert made._pauses.next() == 15


def test_one_message_a_minute_also_after_a_restart(parts: SimpleNamespace, clock: Any) -> None:
    notices, sender = Waiting(parts), Sender()
    notices.rows = [1, 2]
    made = channel(parts, notices, sender)
    assert made._send() == 60  # the next one
    notices.last = clock.now
    assert made._send() == pytest.approx(60)
    again = channel(parts, notices, sender)
    clock.advance(59)
    assert again._send() == pytest.approx(1)
    assert sender.tries == 1
    notices.last = clock.now + 9999  # the clock was set back
    assert again._send() == 0
    assert sender.tries == 2


def test_what_was_sent_to_some_is_sent_and_one_odd_message_ends_no_thread(
    parts: SimpleNamespace, orthanc_standin: StandIn
) -> None:
    notices = Waiting(parts)
    assert channel(parts, notices, Sender(parts.senders.PartlySentError("not to bob")))._send() == 0
    assert len(notices.noted) == 1
    orthanc_standin.assert_logged("dashboard can't notify by mail, and tries again: not to bob", level="error")
    notices.rows = [3]
    assert channel(parts, notices, Sender(KeyError("odd")))._send() == 15
    orthanc_standin.assert_logged("please report it")


def test_the_disk_is_over_two_percent_below(parts: SimpleNamespace) -> None:
    need = parts.notifying.disk_need
    assert need(90.5, 90, set()).keys() == {"disk:server"}
    assert need(89.9, 90, set()) == {}
    assert need(88.5, 90, {"disk:server"}).keys() == {"disk:server"}
    assert need(87.9, 90, {"disk:server"}) == {}
    assert need(None, 90, set()) == {} == need(99, None, set())


def test_how_full_it_is_comes_from_the_file_system(parts: SimpleNamespace, tmp_path: Path) -> None:
    assert 0 < parts.notifying.used_percent(tmp_path) <= 100
    assert parts.notifying.used_percent(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"Webhook": {}}, "Webhook.URL is needed"),
        ({"Mail": {"From": "a@b", "Recipients": ["a@b"]}}, "Mail.Host is needed"),
        ({"Mail": {"Host": "m", "Recipients": ["a@b"]}}, "Mail.From is needed"),
        ({"Mail": {"Host": "m", "From": "a@b"}}, "Mail.Recipients is needed"),
        ({"Mail": {"Host": "m", "From": "a@b", "Recipients": []}}, "Mail.Recipients"),
        ({"Mail": {"Host": "m", "From": "a@b", "Recipients": ["Bob <b@c>"]}}, "Mail.Recipients"),
        ({"Mail": {"Host": "m", "From": "a@b\nBcc: c@d", "Recipients": ["a@b"]}}, "Mail.From"),
        ({"Mail": {"Host": "http://m/", "From": "a@b", "Recipients": ["a@b"]}}, "Mail.Host"),
        ({"Mail": {"Host": "m", "From": "a@b", "Recipients": ["a@b"], "User": "u"}}, "Mail.Password is needed"),
        (
            {"Mail": {"Host": "m", "From": "a@b", "Recipients": ["a@b"], "User": "u", "Password": ""}},
            "Mail.Password is empty",
        ),
        (
            {
                "Mail": {
                    "Host": "m",
                    "From": "a@b",
                    "Recipients": ["a@b"],
                    "User": "u",
                    "Password": "p",
                    "Security": "none",
                }
            },
            'Mail.Security: found "none" with a Password',
        ),
        ({"Webhook": {"URL": "ftp://x"}}, "Webhook.URL"),
        ({"Webhook": {"URL": "https://x", "CACertificate": "/no/such/file"}}, "No such file"),
        ({"DiskAbove": 100}, "DiskAbove"),
    ],
)
def test_what_is_misconfigured_is_one_error(
    start: Callable[..., Any], orthanc_standin: StandIn, section: dict[str, Any], complaint: str
) -> None:
    start("dashboard", {"Dashboard": {"Notify": section}})
    [error] = [text for level, text in orthanc_standin.logs if level == "error"]
    assert complaint in error
    assert error.endswith("dashboard is idle until this is corrected.")
