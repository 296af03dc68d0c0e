# SPDX-License-Identifier: AGPL-3.0-or-later
"""What is tortured: an Orthanc with all scripts combined, its disks and its clock, and all that it sends to."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from benchmarks.forward_kills import COUNTER
from docs.openapi import scripts
from testing.awkward import AwkwardNode
from testing.dicomweb import DicomWebNode
from testing.installed import dicomweb_plugin, python_plugin
from testing.server import OrthancFailedError, OrthancServer
from tests.brokers import RabbitServer
from tests.constants import QUICK, script_with
from tests.dicom_events.brokers.helpers import Hook, RabbitConsumer, over_rabbit
from tests.faked_time import FakedTime
from tests.postgres import PostgresServer
from tests.privileges import AS_ROOT
from tests.torture.line import Line
from tests.torture.studies import PROTECTED, first_of_protected

ROOT = Path(__file__).parents[2]
EXCHANGE = "orthanc"
STATE_MEGABYTES, ARCHIVE_MEGABYTES = 64, 512
KEPT_SECONDS = 15  # after which a rule may take what came in (KeepReceivedDays)
ENDS_WITHIN_SECONDS = 30.0  # after SIGTERM; a job that waits for a destination that hangs keeps Orthanc
QUICK_SCRIPTS = (
    "anonymize_series",
    "auto_forward_dicomweb",
    "auto_forward_modality",
    "auto_forward_peer",
    "auto_retries",
)
RULES = [
    {"Name": "delivered", "Query": {"StudyDescription": "PLAIN"}},
    {"Name": "elsewhere", "Query": {"StudyDescription": "ELSEWHERE"}, "OnlyIfAt": ["PACS", "PEER"], "Proof": "C-FIND"},
]
# From the first byte on there is too little room.
ALWAYS = {"OlderThan": "1y", "WhenDiskAbove": "0.01MB", "DownTo": "0.005MB", "OldestBy": "StudyDate", "AtMost": 5}


def combined(folder: Path) -> Path:
    """Combine all scripts that have routes, in a folder; what failed is tried again after a second, not after half a minute."""
    paths = [
        script_with(path, QUICK) if path.stem in QUICK_SCRIPTS else path.parent if path.stem == "__init__" else path
        for path in scripts()
    ]
    target = folder / "combined.py"
    subprocess.run([sys.executable, ROOT / "combine.py", *paths, "-o", target], check=True, capture_output=True)
    return target


class QuietHook(Hook):
    """A webhook that says nothing of requests that are cut off."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class System:
    """All servers of a torture, in a folder.

    Attributes
    ----------
    source : the Orthanc with all scripts.
    pacs, peer : Orthancs that it sends to, by C-STORE and over HTTP; `node` and `cloud` are destinations in this process.
    rabbit, hook : that it publishes to.
    lines : to each that is behind one, by name.
    state : the folder of what the scripts write down, on a disk of its own, as `archive` is for what Orthanc does.
    killed : when the source was killed (seconds since 1970).
    unwritable : since when, and until when, the state could not be written.
    faults : what happened to the source that must never happen.
    did_not_start : why the source did not start, the last time.
    """

    def __init__(self, folder: Path, chance: random.Random, *, fakes_clock: bool, on_postgres: bool = False) -> None:
        self._closing = contextlib.ExitStack()
        self.folder = folder
        self.killed: list[float] = []
        self.unwritable: list[tuple[float, float]] = []
        self.faults: list[str] = []
        self.did_not_start = ""
        try:
            self._begin(chance, fakes_clock, on_postgres)
        except BaseException:
            self.close()
            raise

    def _begin(self, chance: random.Random, fakes_clock: bool, on_postgres: bool) -> None:
        self.state_disk, archive = self._disk("state", STATE_MEGABYTES), self._disk("archive", ARCHIVE_MEGABYTES)
        self.state, self.archive = self.state_disk / "mine", archive
        self.state.mkdir()
        self.rabbit = self._closed(RabbitServer(self.folder / "rabbit")).start()
        self.consumer = RabbitConsumer(self.rabbit, EXCHANGE)
        self.hook = QuietHook()
        self._closing.callback(self.hook.server_close)
        self._closing.callback(self.hook.shutdown)
        self.postgres = self._closed(PostgresServer()).start() if on_postgres else None
        self.pacs, self.peer = (self._orthanc(aet, COUNTER).start() for aet in ("PACS", "PEER"))
        self.node, self.cloud = self._closed(AwkwardNode("NODE")), self._closed(DicomWebNode())
        self.lines = {
            "PACS": Line(lambda: self.pacs.dicom_port, chance),
            "PEER": Line(lambda: self.peer.http_port, chance),
            "NODE": Line(lambda: self.node.port, chance),
            "CLOUD": Line(lambda: self.cloud.port, chance),
            "rabbit": Line(lambda: self.rabbit.port, chance),
            "hook": Line(lambda: int(self.hook.server_port), chance),
        }
        for line in self.lines.values():
            self._closing.callback(line.close)
        self.clock = FakedTime(self.folder, cached_seconds=1)
        environment = self.clock.environment if fakes_clock else {}  # every look at a faked clock takes its time
        self.source = self._orthanc("SOURCE", combined(self.folder), self._configuration(), environment)
        self._protect()
        self.source.start()

    def _protect(self) -> None:
        """Let a person protect a patient before the scripts come: what they protect themselves, they give back."""
        configuration = self.source.configuration
        index = [each for each in configuration["Plugins"] if "Index" in each]
        self.source.configuration = {**configuration, "Plugins": index}
        self.source.start()
        self.source.store(first_of_protected())
        [patient] = self.source.get("/patients?expand")
        assert patient["MainDicomTags"]["PatientID"] == PROTECTED
        self.source.put(f"/patients/{patient['ID']}/protected", "1")
        self.source.kill()
        self.source.configuration = configuration

    def _closed(self, server: Any) -> Any:
        self._closing.callback(server.close)
        return server

    def _orthanc(self, aet: str, *arguments: Any) -> OrthancServer:
        script, configuration, environment = (*arguments, None, None)[:3]
        allows = {"DicomAlwaysAllowFind": True, "OverwriteInstances": aet != "SOURCE"}
        configuration = {**allows, **(configuration or {})}
        server = OrthancServer(self.folder / aet, script, configuration, aet=aet, environment=environment)
        return self._closed(server)  # type: ignore[no-any-return]

    def _disk(self, name: str, megabytes: int) -> Path:
        folder = self.folder / name
        folder.mkdir()
        subprocess.run([*AS_ROOT, "mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
        self._closing.callback(lambda: subprocess.run([*AS_ROOT, "umount", "--lazy", folder], check=True))
        return folder

    def _configuration(self) -> dict[str, Any]:
        storage = self.archive / "storage"
        index = self.postgres.as_index(storage) if self.postgres else {"Plugins": [str(python_plugin())]}
        hook = {"URL": f"http://127.0.0.1:{self.lines['hook'].port}/", "Timeout": 2}
        rabbit = {"URL": f"amqp://guest:guest@127.0.0.1:{self.lines['rabbit'].port}/"}
        return {
            "StableAge": 2,
            "StorageDirectory": str(storage),
            "IndexDirectory": str(self.archive / "index"),
            **index,
            "Plugins": [*index["Plugins"], str(dicomweb_plugin())],
            "DicomModalities": {name: [name, "127.0.0.1", self.lines[name].port] for name in ("PACS", "NODE")},
            "OrthancPeers": {"PEER": [f"http://127.0.0.1:{self.lines['PEER'].port}/"]},
            "DicomWeb": {"Servers": {"CLOUD": [f"http://127.0.0.1:{self.lines['CLOUD'].port}/"]}},
            "Scripts": {"StatePath": str(self.state)},
            "AutoForwardModality": {"Destinations": ["PACS", "NODE"], "ProtectUndelivered": True},
            "AutoForwardPeer": {"Destinations": ["PEER"], "ProtectUndelivered": True},
            "AutoForwardDicomweb": {"Destinations": ["CLOUD"]},
            "AnonymizeSeries": {"Secret": "s" * 40, "Recipes": {"plain": {}}},
            "AuditLog": {"Key": "k" * 40},
            "DicomEvents": {
                "Brokers": {
                    "rabbit": over_rabbit(self.rabbit, EXCHANGE, RabbitConfig=rabbit),
                    "hook": {"Type": "webhook", "WebhookConfig": hook},
                }
            },
            "PurgeOldStudies": self.purge(),
            "SeriesMainPrivateDicomTags": ["0029,1010"],
        }

    @staticmethod
    def purge(*, has_rules: bool = True) -> dict[str, Any]:
        """Return the section of the purge, with or without its rules."""
        rules = [{**rule, **ALWAYS} for rule in RULES] if has_rules else []
        return {"KeepReceivedDays": KEPT_SECONDS / 86400, "DiskLookSeconds": 1, "Rules": rules}

    # The source

    def kill(self) -> None:
        """End the source as a power cut would."""
        if not self.notes_death():
            self.killed.append(time.time())
            self.source.kill()

    def terminate(self) -> None:
        """End the source by SIGTERM, and by SIGKILL if that takes too long."""
        if self.notes_death():
            return
        assert self.source.process
        self.source.terminate()
        deadline = time.monotonic() + ENDS_WITHIN_SECONDS
        while self.source.running:
            if time.monotonic() > deadline:
                self.kill()
                return
            time.sleep(0.05)
        if self.source.process.returncode:
            self.faults.append(f"ended with status {self.source.process.returncode} after SIGTERM")
        self.source.process = None

    def notes_death(self) -> bool:
        """Return whether the source does not run, and note it if nobody has ended it."""
        process = self.source.process
        if process is not None and process.poll() is not None:
            self.faults.append(f"died by itself with status {process.returncode}")
            self.source.process = None
        return not self.source.running

    def start(self, *, purges: bool = True, within: float = 5.0) -> bool:
        """Start the source; return whether it runs: a full disk may keep it from that."""
        self.source.configuration["PurgeOldStudies"] = self.purge(has_rules=purges)
        deadline = time.monotonic() + within
        while not self.source.running:
            try:
                self.source.start()
            except OrthancFailedError as error:
                if time.monotonic() > deadline:
                    self.did_not_start = str(error)
                    return False
                time.sleep(0.5)
        return True

    def stop_process(self) -> None:
        """Let the source's process stand still."""
        if self.source.process and self.source.running:
            os.killpg(self.source.process.pid, signal.SIGSTOP)

    def continue_process(self) -> None:
        """Let it go on."""
        if self.source.process and self.source.running:
            os.killpg(self.source.process.pid, signal.SIGCONT)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the source; return its JSON, or None while it does not answer with one."""
        with contextlib.suppress(requests.RequestException, ValueError):
            answer = self.source.request(method, path, json=body, timeout=10)
            return answer.json() if answer.ok else None
        return None

    def wait_until_known(self, path: str, is_so: Any, within: float = 60) -> Any:
        """Ask the source for a path until the answer is as wished; return it. Raises OrthancFailedError."""
        return self.source.wait_until(
            lambda: (found := self.ask("GET", path)) is not None and is_so(found) and (found or True), within, path
        )

    @contextlib.contextmanager
    def state_is_unwritable(self) -> Iterator[None]:
        """Note that nothing can be written down meanwhile."""
        began = time.time()
        try:
            yield
        finally:
            self.unwritable.append((began, time.time()))

    def close(self) -> None:
        """End everything."""
        self._closing.close()


def copy_of(folder: Path, to: Path) -> None:
    """Copy the ledgers of a folder, as a backup does while Orthanc is stopped."""
    to.mkdir()
    for path in folder.glob("*.sqlite*"):
        shutil.copy2(path, to)
