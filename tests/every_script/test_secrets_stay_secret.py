# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is secret in a configuration, or in a request, is in no log, in no answer of a script and in no file of its state.

All scripts run in one Orthanc, each with a secret in every place that can have one, and whatever can fail does: hosts are
away, refuse the password and show all that they were sent, speak another protocol, or a key can't be opened.
"""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study
from testing.installed import dicomweb_plugin, python_plugin
from testing.nodes import HttpAnswer, HttpNode, HttpRequest, redirect_to
from testing.processes import reserve_port
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer
from tests.cmove_interceptor.helpers import c_move
from tests.route_table import ROUTES
from tests.scripts import PACKAGES, SCRIPTS, combine_scripts

SPEAKS_OUT = """
import orthanc

def answer(output, uri, **request):
    output.AnswerBuffer(orthanc.GenerateRestApiAuthorizationToken(), "text/plain")

orthanc.RegisterRestCallback("/token", answer)
"""
ORTHANCS_OWN = {"index", "index-wal", "index-shm"}  # has the peers of unfinished jobs, as the configuration has them
# Have whole URLs: the first where Orthanc is verbose, the others from 1.13.0.
ORTHANCS_OWN_LINES = re.compile(
    r"(?:I\d{4} .*HttpClient\.cpp:\d+\] \(http\) |E\d{4} .*(?:HttpClient|OrthancException)\.cpp:\d+\] Error in )"
)
# Destinations, with the peer that is added later; brokers; services; the audit repository; ways to notify people.
FAILURES = 12 + 10 + 5 + 1 + 2
LETTERS = re.compile(rb"Hush[A-Za-z]+")
# `Hush` in Base64, wherever it begins: what `Authorization: Basic` would show.
IN_BASE64 = [base64.b64encode(b"\0" * skipped + b"HushHush")[8 * skipped // 6 + 1 : -4] for skipped in range(3)]


def hush(place: str) -> str:
    """The secret of a place: whoever finds it knows where it was."""
    return f"HushHush{place}{'Hush' * 6}"


def shows_all(request: HttpRequest) -> HttpAnswer:
    """Refuse everybody, and show what was sent, as some pages for errors do."""
    said = f"wrong: {request.method} {request.path} {request.headers} {request.body[:200]!r}"
    return HttpAnswer(401, said.encode(), {"WWW-Authenticate": 'Basic realm="x"', "Content-Type": "text/plain"})


def secrets_in(content: bytes) -> list[str]:
    """The secrets in some bytes, plain or in Base64."""
    encoded = [
        f"Base64: {content[max(0, at - 90) : at + 60]!r}" for each in IN_BASE64 if (at := content.find(each)) >= 0
    ]
    return sorted({found.decode() for found in LETTERS.findall(content)}) + encoded


@pytest.fixture
def refuses() -> Iterator[HttpNode]:
    with HttpNode(shows_all) as node:
        yield node


@pytest.fixture
def redirects() -> Iterator[HttpNode]:
    with HttpNode(redirect_to(f"https://u:{hush('Location')}@elsewhere.example/?key={hush('Location')}#")) as node:
        yield node


@pytest.fixture
def away() -> Iterator[int]:
    with reserve_port() as held:  # nobody listens
        yield int(held.getsockname()[1])


@pytest.fixture
def locked_key(tmp_path: Path) -> Path:
    """A private key with a password that nobody is told, and its certificate."""
    path = tmp_path / "locked.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-days",
        "2",
        "-subj",
        "/CN=own",
        "-passout",
        "pass:other",
    ]
    made = subprocess.run([*command, "-keyout", "-"], check=True, capture_output=True)
    path.write_bytes(made.stdout)
    return path


def peers(refuses: int, redirects: int, away: int, certificate: Path) -> dict[str, Any]:
    return {
        "AWAY": [f"http://127.0.0.1:{away}/", "u", hush("PeerAway")],
        "REFUSES": {
            "Url": f"http://127.0.0.1:{refuses}/",
            "Username": "u",
            "Password": hush("PeerPassword"),
            "HttpHeaders": {"X-Key": hush("PeerHeader")},
        },
        "REDIRECTS": [f"http://127.0.0.1:{redirects}/", "u", hush("PeerRedirected")],
        "TLS": {
            "Url": f"https://127.0.0.1:{refuses}/",
            "Username": "u",
            "Password": hush("PeerTls"),
            "CertificateFile": str(certificate),
            "CertificateKeyPassword": hush("PeerKey"),
        },
        "IN-URL": [f"http://u:{hush('PeerUrl')}@127.0.0.1:{refuses}/?key={hush('PeerQuery')}"],
        "PROXIED": ["http://elsewhere.invalid/", "u", hush("PeerProxied")],
    }


def web_servers(refuses: int, redirects: int, away: int) -> dict[str, Any]:
    return {
        "AWAY": [f"http://127.0.0.1:{away}/dicom-web/", "u", hush("WebAway")],
        "REFUSES": {
            "Url": f"http://127.0.0.1:{refuses}/dicom-web/",
            "Username": "u",
            "Password": hush("WebPassword"),
            "HttpHeaders": {"X-Key": hush("WebHeader")},
        },
        "REDIRECTS": [f"http://127.0.0.1:{redirects}/dicom-web/", "u", hush("WebRedirected")],
        "IN-URL": [f"http://u:{hush('WebUrl')}@127.0.0.1:{refuses}/dicom-web/"],
        "TLS": [f"https://127.0.0.1:{refuses}/dicom-web/", "u", hush("WebTls")],
    }


def services(refuses: int, redirects: int, away: int) -> list[dict[str, Any]]:
    return [
        {"Name": "away", "Url": f"http://127.0.0.1:{away}/{{Level}}?key={hush('NotifyQuery')}", "Token": hush("NotifyToken")},
        {
            "Name": "refuses",
            "Url": f"http://127.0.0.1:{refuses}/x?key={hush('NotifyRefusedQuery')}",
            "Method": "POST",
            "Body": {"key": hush("NotifyBody"), "uid": "{StudyInstanceUID}"},
            "Headers": {"X-Key": hush("NotifyHeader")},
            "Username": "u",
            "Password": hush("NotifyPassword"),
        },
        {"Name": "redirects", "Url": f"http://127.0.0.1:{redirects}/", "Token": hush("NotifyRedirected"), "When": "after"},
        {"Name": "tls", "Url": f"https://127.0.0.1:{refuses}/", "Username": "u", "Password": hush("NotifyTls")},
        {
            "Name": "proxied",
            "Url": f"https://elsewhere.invalid/?key={hush('NotifyProxiedQuery')}",
            "Proxy": f"http://u:{hush('NotifyProxy')}@127.0.0.1:{refuses}",
        },
    ]  # fmt: skip


def brokers(refuses: int, away: int) -> dict[str, Any]:
    kafka = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "PLAIN", "sasl.username": "u"}

    def webhook(url: str, place: str, **more: Any) -> dict[str, Any]:
        config = {"URL": url, "Secret": hush(f"{place}Key"), "Headers": {"X-Key": hush(f"{place}Header")}, **more}
        return {"Type": "webhook", "WebhookConfig": config}

    rabbit, nats, hook = hush("Rabbit"), hush("Nats"), hush("HookUrl")
    return {
        "rabbit away": {"Type": "rabbitmq", "RabbitConfig": {"URL": f"amqp://u:{rabbit}@127.0.0.1:{away}/"}},
        "rabbit other": {"Type": "rabbitmq", "RabbitConfig": {"URL": f"amqp://u:{rabbit}@127.0.0.1:{refuses}/"}},
        "rabbit tls": {"Type": "rabbitmq", "RabbitConfig": {"URL": f"amqps://u:{rabbit}@127.0.0.1:{refuses}/"}},
        "nats away": {"Type": "nats", "NatsConfig": {"URL": f"nats://u:{nats}@127.0.0.1:{away}"}},
        "nats other": {"Type": "nats", "NatsConfig": {"URL": f"nats://{nats}@127.0.0.1:{refuses}"}},
        "kafka": {
            "Type": "kafka",
            "KafkaConfig": {"BootstrapServers": f"127.0.0.1:{away}", "Options": {**kafka, "sasl.password": hush("Kafka")}},
        },
        "hook away": webhook(f"http://u:{hook}@127.0.0.1:{away}/{hook}", "HookAway"),
        "hook refuses": webhook(f"http://u:{hook}@127.0.0.1:{refuses}/{hook}?key={hook}", "HookRefuses"),
        "hook tls": webhook(f"https://u:{hook}@127.0.0.1:{refuses}/{hook}", "HookTls"),
        "hook proxied": webhook(
            f"https://u:{hook}@elsewhere.invalid/{hook}", "HookProxied", Proxy=f"http://u:{hush('HookProxy')}@127.0.0.1:{refuses}"
        ),
    }  # fmt: skip


def notify(refuses: int, away: int) -> dict[str, Any]:
    url = f"http://u:{hush('DashboardUrl')}@127.0.0.1:{refuses}/{hush('DashboardPath')}?key={hush('DashboardQuery')}"
    people = {"From": "orthanc@hospital.example", "Recipients": ["it@hospital.example"]}
    return {
        "DiskAbove": 1,  # there is something to say
        "Mail": {"Host": "127.0.0.1", "Port": away, "User": "u", "Password": hush("Mail"), **people},
        "Webhook": {"URL": url, "Secret": hush("DashboardKey")},
    }


@pytest.fixture
def server(
    start_briefly: StartOrthanc,
    tmp_path: Path,
    refuses: HttpNode,
    redirects: HttpNode,
    away: int,
    certificate: Path,
    locked_key: Path,
) -> OrthancServer:
    (tmp_path / "speaks_out.py").write_text(SPEAKS_OUT)
    scripts = [*SCRIPTS, *PACKAGES, tmp_path / "speaks_out.py"]
    combined = combine_scripts(*scripts, to=tmp_path / "combined.py")
    syslog = {"Host": "127.0.0.1", "Port": away, "CertificateFile": str(locked_key), "KeyPassword": hush("SyslogKey")}
    nodes = (refuses.port, redirects.port, away)
    return start_briefly(
        combined,
        {
            "Plugins": [str(python_plugin()), str(dicomweb_plugin())],
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"admin": hush("User")},
            "HttpProxy": f"http://u:{hush('HttpProxy')}@127.0.0.1:{away}",
            "DicomModalities": {"DEST": ["DEST", "127.0.0.1", away], "MOVER": ["MOVER", "127.0.0.1", away]},
            "AutoForwardModality": {"Destinations": []},
            "OrthancPeers": peers(*nodes, certificate),
            "HttpsCACertificates": str(certificate),
            "DicomWeb": {"Servers": web_servers(*nodes)},
            "AnonymizeSeries": {"Secret": hush("Anonymize"), "Recipes": {"all": {}}},
            "AuditLog": {"Key": hush("AuditKey"), "WatchRequests": True, "To": "syslog", "Syslog": syslog},
            "AutoForwardPeer": {"Trigger": "Stored"},
            "AutoForwardDicomweb": {"Trigger": "Stored"},
            "CMoveInterceptor": {
                "Mode": "fetch",
                "Fetch": {"From": ["peer:AWAY", "peer:REFUSES", "peer:TLS"], "Seconds": 3},
                "Notify": services(*nodes),
            },
            "DicomEvents": {"Brokers": brokers(refuses.port, away)},
            "Dashboard": {"Notify": notify(refuses.port, away)},
            "PurgeOldStudies": {"KeepUndelivered": False},
        },
        verbose=True,
    )


def answers(server: OrthancServer) -> Iterator[tuple[str, bytes]]:
    """What each route of a script answers that names nothing."""
    paths = {route.partition(" ")[2] for route in ROUTES if route.startswith("GET ") and "(" not in route}
    status = [entry["Status"] for entry in server.get("/scripts") if entry["Status"]]
    for path in sorted({*paths, *status}):
        yield path, server.request("GET", path).content


def failing(server: OrthancServer) -> set[str]:
    """What has failed, by its kind and name: some of it may be tried again just now, and has no error then."""
    found = {
        f"{script} {name}": each["Error"]
        for script in ("peer", "dicomweb")
        for name, each in server.get(f"/auto-forward-{script}/destinations").items()
    }
    found |= {
        f"broker {name}": each["LastError"] for name, each in server.get("/dicom-events/status")["Brokers"].items()
    }
    for move in server.get("/cmove-interceptor/requests")["Items"]:
        found |= {f"notify {each['Service']}": each["Error"] for each in move["Notifications"] if each["Error"]}
    reason = server.get("/dashboard/status")["Reason"] or ""
    found |= {f"notify by {way}": f"can't notify by {way}" in reason for way in ("mail", "webhook")}
    return {name for name, error in {**found, "syslog": "can't send to" in server.log}.items() if error}


def test_no_secret_is_in_logs_answers_or_state_whatever_fails(server: OrthancServer) -> None:
    server.store(make_study(instances=2, StudyInstanceUID="1.2.3"))
    for uid in ("1.2.3", "1.2.4"):
        c_move(server, "STUDY", StudyInstanceUID=uid)
    for who in (("admin", hush("WrongPassword")), ("nobody", hush("Nobody")), ("admin", hush("User"))):
        given = {"Cookie": hush("Cookie"), "X-Api-Key": hush("ApiKey")}
        server.request(
            "GET", f"/purge-old-studies?dry-run=true&older-than=9y&token={hush('Query')}", auth=who, headers=given
        )
        server.request("GET", f"/studies/1/archive?token={hush('Query')}", auth=who, headers=given)
        server.request(
            "PUT", "/peers/LATE", json=[f"http://u:{hush('Late')}@elsewhere.invalid/", "u", hush("Late")], auth=who
        )
        server.request(
            "POST", "/scripts/health", json={}, headers={"Authorization": f"Bearer {hush('Bearer')}"}, auth=None
        )
    elsewhere = [f"peer:{name}" for name in ("AWAY", "REFUSES", "REDIRECTS", "TLS", "IN-URL", "PROXIED")]
    for name in [*elsewhere, *(f"dicomweb:{name}" for name in ("AWAY", "REFUSES", "REDIRECTS", "IN-URL", "TLS"))]:
        asked = {"since": "20260101", "dry-run": False, "only-if-at": [name]}
        answer = server.request("POST", "/purge-old-studies", json=asked)
        assert answer.json().get("Kept") == server.get("/studies"), answer.text
    failed = set[str]()

    def all_failed() -> bool:
        failed.update(failing(server))
        return len(failed) == FAILURES

    server.wait_until(all_failed, timeout=90, what="fail everywhere")
    token = server.get("/token")
    (server.folder / "orthanc.json").unlink()
    leaks = {path: found for path, content in answers(server) if (found := secrets_in(content))}
    lines = [line for line in server.log.splitlines() if not ORTHANCS_OWN_LINES.match(line)]
    leaks |= {line: found for line in lines if (found := secrets_in(line.encode()))}
    server.kill()
    for path in server.folder.rglob("*"):
        if path.is_file() and path.name not in {*ORTHANCS_OWN, "orthanc.log"}:
            content = path.read_bytes()
            if found := secrets_in(content) + [token] * (token.encode() in content):
                leaks[str(path)] = found
    assert leaks == {}
    assert token not in server.log
