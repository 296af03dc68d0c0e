# SPDX-License-Identifier: AGPL-3.0-or-later
"""A reader who does what a page says, in a folder in place of the root, with real servers at the addresses that it names."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from testing.installed import dicomweb_plugin, python_plugin
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import OrthancFailedError, OrthancServer
from tests.docs.blocks import ROOT, Block, configuration_of, differences, line_pattern
from tests.docs.scenes import SECRET, Scene

SCRIPTS = "/etc/orthanc/scripts"
ANSWERED_WITHIN = (
    5.0 if os.environ.get("WRITE_ANSWERS") else 20.0
)  # seconds: what a script does in the background may take a moment
# A request that is answered with 400 or more fails, also where a page's command would only show that.
SHELL = """curl() {
  case " $* " in *" -f"* | *" --fail"*) command curl "$@" ;; *) command curl --silent --show-error --fail-with-body "$@" ;; esac
}
"""


class Reader:
    """Follow one page: start Orthanc with its configurations, run its commands, compare its answers."""

    def __init__(self, scene: Scene, start_orthanc: StartOrthanc, storescp: StoreScp, folder: Path) -> None:
        self.scene, self.start_orthanc, self.storescp, self.root = scene, start_orthanc, storescp, folder
        self.server: OrthancServer | None = None
        self._peer: OrthancServer | None = None
        self._first: dict[str, Any] = {}
        self._last_command = ""
        self._said = ""
        self.scripts = folder / SCRIPTS.removeprefix("/")
        self.work = folder / "work"  # a clone
        self.work.mkdir()
        self.archive = folder / "var/lib/orthanc/db"
        self.archive.mkdir(parents=True)
        (folder / "var/log").mkdir()
        for target in (self.scripts, self.work):
            target.mkdir(parents=True, exist_ok=True)
            for path in ROOT.glob("*.py"):
                shutil.copy(path, target)
            shutil.copytree(ROOT / "dicom_events", target / "dicom_events")
            for name, text in scene.scripts.items():
                (target / name).write_text(text)
        for name, text in scene.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        if scene.commands:
            subprocess.run(["bash", "-ec", self.here(scene.commands)], cwd=self.work, check=True)

    # Places

    def here(self, text: str) -> str:
        """Put what is here in the place of what a page names: folders, addresses, users."""
        text = re.sub(r"(?<![\w.])/(etc|var)/", rf"{self.root}/\1/", text)
        if self.server:
            text = re.sub(r"http://(127\.0\.0\.1|localhost):8042", self.server.url, text)
        return text.replace("-u USER ", "-u USER:PASSWORD ").replace("-o orthanc -g orthanc ", "").replace("sudo ", "")

    def there(self, text: str) -> str:
        """Put what a page names in the place of what is here."""
        if self.server:
            text = text.replace(self.server.url, "http://127.0.0.1:8042")
        return text.replace(str(self.root), "").replace(str(self.storescp.port), "104")

    # Configurations

    def configure(self, block: Block) -> None:
        """Start Orthanc with a configuration; what is a part is added to the page's first one. Its script must run."""
        if self.scene.before and not self.server:
            self._start(self.scene.before)
        shown = configuration_of(block)
        if "PythonScript" in shown:
            self._first = self._first or shown
        else:
            shown = {**self._first, **self.scene.more, **shown}
        self._start(shown, must_run=not block.marker.startswith("idle "))

    def _start(self, configuration: dict[str, Any], *, must_run: bool = True) -> None:
        """Start Orthanc with what it had before, as after an edit of its configuration; only addresses are others."""
        text = json.dumps(configuration)
        shown = {
            **json.loads(self.here(text)),
            "StorageDirectory": str(self.archive),
            "IndexDirectory": str(self.archive),
        }
        for name, node in shown.get("DicomModalities", {}).items():
            shown["DicomModalities"][name] = [node[0], "127.0.0.1", self.storescp.port]
        for name in shown.get("OrthancPeers", {}):
            self._peer = self._peer or self.start_orthanc(None, aet="PEER")
            shown["OrthancPeers"][name] = self._peer.as_peer()
        if servers := shown.get("DicomWeb", {}).get("Servers"):
            plugin = str(dicomweb_plugin())  # in the folder that Debian's configuration names
            self._peer = self._peer or self.start_orthanc(None, {"Plugins": [plugin]}, aet="PEER")
            servers.update({name: [f"{self._peer.url}/dicom-web/"] for name in servers})
            shown["Plugins"] = [str(python_plugin()), plugin]
        if self.server:
            self.server.kill()
        variables = re.findall(r"\$\{(\w+)\}", text)
        script = Path(shown.pop("PythonScript"))
        self.server = self.start_orthanc(script, shown, environment=dict.fromkeys(variables, SECRET))
        if must_run:
            self._wait_until_running(script)
        self.scene.prepare(self.server)

    def _wait_until_running(self, script: Path) -> None:
        assert self.server
        name = script.parent.name if script.name == "__init__.py" else script.stem
        status = f"/{name.replace('_', '-')}/status"
        user = next(iter(self.server.configuration.get("RegisteredUsers", {})), None)
        auth = (user, SECRET) if user else None
        if self.server.request("GET", status, auth=auth).status_code != 404:
            ask = functools.partial(self.server.request, "GET", status, auth=auth)
            self.server.wait_until(lambda: ask().json().get("State") == "running", what=f"{status} says running")
        errors = [text for level, text in self.server.log_lines() if level == "error"]
        unexpected = [text for text in errors if not any(each in text for each in self.scene.errors)]
        assert not unexpected, unexpected

    def write(self, block: Block) -> None:
        """Put a file of the page where scripts are."""
        (self.scripts / block.marker.removeprefix("file: ")).write_text(block.text)

    def find_in_log(self, block: Block) -> None:
        """Look for each line of a block in Orthanc's log; a script that the marker names is started for that."""
        server = self.server if block.marker == "in the log" else self._start_for_log(block.marker)
        assert server
        for line in block.text.splitlines():
            pattern = line_pattern(line)
            server.wait_until(functools.partial(self._is_logged, pattern, server), what=f"{line!r} in the log")
        if server is not self.server:
            server.kill()

    def _is_logged(self, pattern: str, server: OrthancServer) -> bool:
        return re.search(pattern, self.there(server.log)) is not None

    def _start_for_log(self, marker: str) -> OrthancServer:
        script, _, configuration = marker.removeprefix("logged by ").partition(" with ")
        server = self.start_orthanc(self.scripts / script, json.loads(configuration or "{}"), start=False)
        with contextlib.suppress(OrthancFailedError):  # that may be what the line is about
            server.start()
        return server

    # Commands and answers

    def run(self, block: Block) -> None:
        """Run commands; each must succeed, and each request must be answered with a status below 400."""
        self._last_command = re.sub(r"^sudo systemctl .*\n", "", block.text, flags=re.M)
        expected = int(block.marker.removeprefix("status ") or 0)
        done = self._run()
        deadline = time.monotonic() + (ANSWERED_WITHIN if self._asks_only() else 0)
        while done.returncode != expected and time.monotonic() < deadline:
            time.sleep(0.3)
            done = self._run()
        said = f"{block.place}: status {done.returncode}\n{self._last_command}{done.stdout}{done.stderr}"
        assert done.returncode == expected, said
        self._said = done.stdout or done.stderr

    def _run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-ec", SHELL + self.here(self._last_command)],
            cwd=self.work,
            env=self.scene.environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def answer_of(self, block: Block) -> tuple[str, list[str]]:
        """Return what the last command really answers, and where that is not what a block shows.

        A question that changes nothing is asked again, until the answer is as it is shown or for some seconds.
        """
        deadline = time.monotonic() + (ANSWERED_WITHIN if self._asks_only() else 0)
        while (found := differences(block.text, self.there(self._said))) and time.monotonic() < deadline:
            time.sleep(0.3)
            self._said = self._run().stdout
        return self.there(self._said), found

    def _asks_only(self) -> bool:
        acts = re.search(r" (-d|-X) |purge-old-studies\?(?!.*dry-run=true)", self._last_command)
        return self._last_command.startswith(("curl", "grep")) and not acts
