# SPDX-License-Identifier: AGPL-3.0-or-later
"""A destination dies: one mail, over TLS; it gets everything: one mail. Whatever is killed in between."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import OrthancServer, reserve_port
from tests.dashboard.helpers import ROOT, combine
from tests.dashboard.mails import PASSWORD, MailServer, mail_server, make_certificate

QUICK = {
    "SETTLED_SECONDS = 60.0": "SETTLED_SECONDS = 3.0",
    "BETWEEN_MESSAGES_SECONDS = 60.0": "BETWEEN_MESSAGES_SECONDS = 1.0",
    "UNWATCHED_SECONDS = 30.0": "UNWATCHED_SECONDS = 1.0",
}


def quick_dashboard(folder: Path) -> Path:
    """The script, which takes seconds where it takes a minute."""
    text = (ROOT / "dashboard.py").read_text()
    for old, new in QUICK.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "dashboard.py").write_text(text)
    return folder / "dashboard.py"


def written(server: OrthancServer) -> list[tuple[str, int]]:
    """The alerts that the state has, and whether they were sent."""
    path = server.folder / "storage" / "dashboard.sqlite"
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return [*db.execute("SELECT alert, told FROM notices")]


def subjects(server: MailServer) -> list[str]:
    lines = [mail.content.decode().splitlines() for mail in server.mails]
    return [next(line for line in each if line.startswith("Subject: ")) for each in lines]


def test_one_mail_when_a_destination_dies_and_one_when_it_has_everything(
    start_orthanc: StartOrthanc, storescp: StoreScp, tmp_path: Path
) -> None:
    (tmp_path / "quick").mkdir()
    certificate = make_certificate(tmp_path)
    script = combine(tmp_path / "all.py", ROOT / "auto_forward_modality.py", quick_dashboard(tmp_path / "quick"))
    away = f"destination:auto_forward_modality:{storescp.aet}"
    with reserve_port() as reserved:
        port = reserved.getsockname()[1]
        mail = {
            **{"Host": "127.0.0.1", "Port": port, "CACertificate": str(certificate)},
            **{"User": "orthanc", "Password": "${SMTP_PASSWORD}"},
            **{"From": "orthanc@hospital.example", "Recipients": ["anna@hospital.example"]},
        }
        configuration = {
            "DicomModalities": {storescp.aet: storescp.as_modality()},
            "AutoForwardModality": {"Destinations": [storescp.aet]},
            "Dashboard": {"Notify": {"AfterMinutes": 0, "DiskAbove": None, "Mail": mail}},
        }
        storescp.stop()
        source = start_orthanc(script, configuration, environment={"SMTP_PASSWORD": PASSWORD})
        source.store(make_study(instances=1))
        source.wait_until(lambda: written(source) == [(away, 0)], what="write it down, as the mail server is away too")
        source.wait_for_log("dashboard can't notify by mail, and tries again")
        source.kill()
        with mail_server(certificate, port=port) as mails:
            source.start()
            source.wait_until(lambda: subjects(mails), what="send a mail")
            source.wait_until(lambda: written(source) == [(away, 1)], what="note that")
            source.kill()
            source.start()
            source.wait_until(lambda: source.get("/dashboard/summary")["Destinations"], what="look")
            storescp.start()
            [row] = source.get("/auto-forward-modality/deliveries")["Items"]
            source.post(f"/auto-forward-modality/deliveries/{row['ID']}/retry")
            source.wait_until(lambda: len(mails.mails) == 2, what="send the other one", timeout=60)
            source.wait_until(lambda: written(source) == [], what="forget it")
            assert subjects(mails) == [
                "Subject: Orthanc ORTHANC: 1 needs a person",
                "Subject: Orthanc ORTHANC: 1 is over",
            ]
            first, second = (each.content.decode() for each in mails.mails)
            assert f"{storescp.aet} is away, 1 delivery waits" in first
            assert f"Over: {storescp.aet} is away" in second
            assert {*mails.logins} == {("orthanc", PASSWORD)}
    assert len(storescp.files()) == 1
    assert PASSWORD not in source.log
    assert source.get("/scripts/health")["Healthy"]
