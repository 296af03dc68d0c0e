# SPDX-License-Identifier: AGPL-3.0-or-later
"""Builds the Dockerfile on both base images, and does with them what README.md and docs/install.md tell: `make image-test`.

The base images are made of Debian's packages (tests/systems/base_images.py), the engine is buildah with a network namespace
(tests/systems/docker_stand_in.py). A word chooses journeys: `make image-test IMAGE_TEST_ARGS=compose`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests

from testing.dicom import make_study
from testing.server import send_by_cstore
from testing.waiting import wait_until
from tests.systems import docker_stand_in as engine
from tests.systems.base_images import JODOGNE, ORTHANCTEAM, make_images
from tests.systems.debian_root import CACHE, ROOT, JourneyFailedError, needs_root

PASSWORD = "correct-horse"  # noqa: S105
PACS = '"PACS", "192.168.1.10", 104'
PACS_HERE = f'"STORESCP", "{engine.BRIDGE}", 11104'
IMAGES = 4  # of each study that is sent
URL = "http://127.0.0.1:8042"
WITHIN = 60.0  # seconds


def marked(page: str, place: str, language: str) -> str:
    """Return the block of a page that is marked `<!-- run PLACE -->`."""
    found = re.findall(rf"<!-- run {re.escape(place)} -->\n```{language}\n(.*?)```", (ROOT / page).read_text(), re.S)
    expect(len(found) == 1, f"one block of {page} for {place}")
    return str(found[0])


def block_with(page: str, text: str) -> str:
    """Return the block of shell commands of a page that has a text."""
    blocks = [each for each in re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.S) if text in each]
    expect(len(blocks) == 1, f"one block of {page} with {text}")
    return str(blocks[0])


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise JourneyFailedError(f"not so: {what}")


def shell(commands: str, folder: Path) -> str:
    """Run commands as a person would who has Docker."""
    environment = {**os.environ, "ORTHANC_PASSWORD": PASSWORD, "PATH": f"{engine.FOLDER}/bin:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=None if "docker build" in commands else 120,
    )
    expect(done.returncode == 0, f"{commands!r} works:\n{done.stdout[-2000:]}")
    return done.stdout


class Place:
    """A folder with the scripts, as a person has who follows the README, and a node that receives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.received = folder / "received"
        self.received.mkdir()
        for script in ROOT.glob("*.py"):
            shutil.copy(script, folder)
        command = ["storescp", "-aet", "STORESCP", "-od", str(self.received), "11104"]
        self.storescp = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def shell(self, commands: str) -> str:
        return shell(commands, self.folder)

    def configure(self, text: str, **more: Any) -> None:
        """Write orthanc.json with the node that is here, and `StableAge` 1."""
        expect(PACS in text, f"the configuration has the node {PACS}")
        made = {**json.loads(text.replace(PACS, PACS_HERE)), "StableAge": 1, **more}
        (self.folder / "orthanc.json").write_text(json.dumps(made))

    def send(self, seed: int = 1) -> None:
        """Send a study to the published port; wait until its images have come out at the other node."""
        self.wait_for_status("auto-forward-modality")
        for file in self.received.iterdir():
            file.unlink()
        send_by_cstore(make_study(instances=IMAGES, seed=seed), port=4242, aet="MODALITY", called="ORTHANC")
        wait_until(lambda: len(list(self.received.iterdir())) == IMAGES, WITHIN, "the study at the other node")

    def wait_for_status(self, script: str) -> None:
        def running() -> bool:
            try:
                answer = get(f"/{script}/status")
            except requests.RequestException:
                return False
            return answer.ok and answer.json()["State"] == "running"

        wait_until(running, WITHIN, f"{script} running")

    def log(self) -> str:
        return self.shell("docker logs orthanc")


def get(path: str, user: str = "admin", password: str = PASSWORD) -> requests.Response:
    return requests.get(URL + path, auth=(user, password), timeout=10)


@contextlib.contextmanager
def started(place: Place, commands: str) -> Iterator[None]:
    """Start containers by commands, and remove them in the end."""
    try:
        place.shell(commands)
        yield
    except Exception:
        for log in engine.CONTAINERS.glob("*.log"):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}")
        raise
    finally:
        for made in engine.CONTAINERS.glob("*.json"):
            place.shell(f"docker rm -f {made.stem}")


def run_and_look() -> tuple[str, str]:
    """Return the README's commands that run jodogne/orthanc-python: to start, and to look afterwards."""
    lines = block_with("README.md", "docker run -d --name orthanc").splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if line.startswith("curl"))
    return "".join(lines[:at]), "".join(lines[at:])


def one_script_in_the_first_image(place: Place) -> None:
    start, look = run_and_look()
    place.configure(marked("README.md", "in jodogne/orthanc-python", "json"))
    for seed in (1, 2):
        with started(place, start):
            place.send(seed)
            said = place.shell(look)
            expect('"State": "running"' in said, f"the README's curl says that it runs: {said}")
            expect("Orthanc has started" in said, "docker logs shows Orthanc's log")
            expect(requests.get(f"{URL}/system", timeout=10).status_code == 401, "nobody asks without a password")
            count = get("/statistics").json()["CountInstances"]
            expect(count == seed * IMAGES, f"the volume keeps the archive of the container before: {count}")
    ledger = engine.VOLUMES / "orthanc-data/auto_forward_modality.sqlite"
    expect(ledger.exists(), "the volume keeps the ledger")


def a_key_of_advanced_json_in_the_first_image(place: Place) -> None:
    """The image has an advanced.json with UserMetadata: the README's command reads one file, and so is not stopped."""
    start, _ = run_and_look()
    place.configure(marked("README.md", "in jodogne/orthanc-python", "json"), UserMetadata={"Mine": 3000})
    with started(place, start):
        place.wait_for_status("auto-forward-modality")


def a_combined_script_in_the_first_image(place: Place) -> None:
    start, _ = run_and_look()
    place.shell(block_with("README.md", "--entrypoint python3.13"))
    place.configure(
        marked("README.md", "in jodogne/orthanc-python", "json"), PythonScript="/etc/orthanc/scripts/combined.py"
    )
    mount = "auto_forward_modality.py:/etc/orthanc/scripts/auto_forward_modality.py"
    expect(mount in start, "the README mounts the script")
    with started(place, start.replace(mount, "combined.py:/etc/orthanc/scripts/combined.py")):
        place.send()
        place.wait_for_status("purge-old-studies")


def one_script_in_the_second_image(place: Place) -> None:
    text = marked("docs/install.md", "in orthancteam/orthanc", "yaml")
    expect(PACS in text, f"the page has the node {PACS}")
    text = text.replace(PACS, PACS_HERE).replace('"AutoForward', '"StableAge": 1, "AutoForward')
    (place.folder / "docker-compose.yml").write_text(text)
    with started(place, "docker compose up -d"):
        place.send()
        expect("/tmp/orthanc.json" in place.log(), "Orthanc reads what the image's start has made")  # noqa: S108


def combined(place: Place) -> Path:
    command = [sys.executable, "combine.py", "auto_forward_modality.py", "anonymize_series.py", "-o", "combined.py"]
    subprocess.run(command, cwd=place.folder, check=True, stdout=subprocess.DEVNULL)
    return place.folder / "combined.py"


ANONYMIZE = {"Secret": "0123456789abcdef0123456789abcdef", "Recipes": {"research": {}}}


def a_combined_script_in_our_image_of_the_first(place: Place) -> None:
    """With pydicom, which only our image has, and one of its scripts."""
    start, _ = run_and_look()
    combined(place)
    text = marked("README.md", "in jodogne/orthanc-python", "json")
    place.configure(text, PythonScript="/etc/orthanc/scripts/combined.py", AnonymizeSeries=ANONYMIZE)
    start = start.replace(
        "auto_forward_modality.py:/etc/orthanc/scripts/auto_forward_modality.py",
        "combined.py:/etc/orthanc/scripts/combined.py",
    )
    start = start.replace(JODOGNE.removeprefix("docker.io/"), "first")
    with started(place, start):
        look_at_our_image(place, "first", user=0)


def a_combined_script_in_our_image_of_the_second(place: Place) -> None:
    combined(place)
    more = {"DicomModalities": {"PACS": json.loads(f"[{PACS_HERE}]")}, "StableAge": 1, "AnonymizeSeries": ANONYMIZE}
    more["AutoForwardModality"] = {"Destinations": ["PACS"]}
    command = (
        "docker run -d --name orthanc -p 4242:4242 -p 8042:8042 -v data-of-second:/var/lib/orthanc/db"
        ' -e ORTHANC__PYTHON_SCRIPT=/scripts/combined.py -v "$PWD/combined.py:/scripts/combined.py:ro"'
        f" -e 'ORTHANC__REGISTERED_USERS={json.dumps({'admin': PASSWORD})}' -e 'ORTHANC_JSON={json.dumps(more)}' second"
    )
    with started(place, command):
        look_at_our_image(place, "second", user=999)


def look_at_our_image(place: Place, image: str, user: int) -> None:
    place.send()
    place.wait_for_status("anonymize-series")
    uids = {
        Path(f"/proc/{pid}").stat().st_uid
        for pid in engine.pids_of("orthanc")
        if Path(f"/proc/{pid}/comm").read_text().startswith("Orthanc")
    }
    expect(uids == {user}, f"Orthanc runs as {user}: {uids}")
    settings = engine.settings_of(image)
    expect(settings["Labels"]["org.opencontainers.image.licenses"] == "AGPL-3.0-or-later", "the image has labels")
    kind, *check = settings["Healthcheck"]["Test"]
    expect(kind == "CMD", "the health check is a command")
    place.shell(f"docker exec orthanc {' '.join(check)}")
    place.shell(f"! docker exec orthanc env ORTHANC_HEALTH_URL=http://127.0.0.1:1/ {' '.join(check)}")


def compose(place: Place) -> None:
    """The journey of docker compose; its images were built before."""
    for name in ("docker-compose.yml", "examples", "testing"):
        (place.folder / name).symlink_to(ROOT / name)
    with started(place, "docker compose up"):
        log = engine.CONTAINERS / "sender.log"
        wait_until(lambda: "verything arrived" in log.read_text(), 120, "the sender's last line")
        expect(log.read_text().endswith("Everything arrived.\n"), f"everything arrived: {log.read_text()}")
        errors = [line for line in place.log().splitlines() if line.startswith("E")]
        expect(errors == [], f"no error in Orthanc's log: {errors[:3]}")
        expect(requests.get("http://127.0.0.1:8043/system", auth=("demo", "demo"), timeout=10).ok, "8043 is published")


JOURNEYS: tuple[Callable[[Place], None], ...] = (
    one_script_in_the_first_image,
    a_key_of_advanced_json_in_the_first_image,
    a_combined_script_in_the_first_image,
    one_script_in_the_second_image,
    a_combined_script_in_our_image_of_the_first,
    a_combined_script_in_our_image_of_the_second,
    compose,
)


def build() -> None:
    """Make the base images, and run the README's commands that build ours."""
    make_images()
    commands = [line.split("#")[0] for line in block_with("README.md", "docker build -t").splitlines()]
    built = [line for line in commands if line.startswith("docker build -t orthanc-scripts ")]
    expect(
        [f"BASE={ORTHANCTEAM.removeprefix('docker.io/')}" in line for line in built] == [False, True],
        "README builds two images",
    )
    for line, tag in zip(built, ("first", "second"), strict=True):
        print(f"=== {line}", flush=True)
        shell(line, ROOT)
        engine.buildah("tag", "orthanc-scripts", tag)
    for service in ("orthanc", "destination", "sender"):  # what `build: .` of docker-compose.yml makes
        engine.buildah("tag", "first", f"compose-{service}")


def inside(words: list[str]) -> int:
    """Run the journeys, in namespaces of their own."""
    engine.network()
    for left in engine.buildah("containers", "--format", "{{.ContainerName}}").split():
        if "working-container" not in left:  # of a run that was interrupted
            engine.buildah("rm", left)
    failed = 0
    for journey in JOURNEYS:
        name = journey.__name__
        if words and not any(word in name for word in words):
            continue
        begin = time.monotonic()
        with tempfile.TemporaryDirectory(dir=engine.FOLDER) as folder:
            place = Place(Path(folder))
            shutil.rmtree(engine.VOLUMES, ignore_errors=True)
            engine.VOLUMES.mkdir()
            for log in engine.CONTAINERS.glob("*.log"):
                log.unlink()
            try:
                journey(place)
                result = "passed"
            except (JourneyFailedError, TimeoutError, subprocess.TimeoutExpired, requests.RequestException) as error:
                failed += 1
                result = f"FAILED: {error}"
            place.storescp.kill()
            place.storescp.wait()
        print(f"{name.replace('_', ' '):55} {time.monotonic() - begin:5.0f} s  {result}", flush=True)
    return 1 if failed else 0


def main() -> int:
    words = sys.argv[1:]
    if words[:1] == ["--inside"]:
        return inside(words[1:])
    needs_root("image_test")
    folder = Path(os.environ.get("STAND_IN") or CACHE / "images")
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    docker = folder / "bin/docker"
    docker.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.systems.docker_stand_in "$@"\n')
    docker.chmod(0o755)
    registries = folder / "registries.conf"
    registries.write_text('unqualified-search-registries = ["docker.io"]\n')
    if "CONTAINERS_REGISTRIES_CONF" not in os.environ:  # engine reads it when it is imported
        settings = {"STAND_IN": str(folder), "CONTAINERS_REGISTRIES_CONF": str(registries)}
        os.execve(
            sys.executable, [sys.executable, "-m", "tests.systems.image_test", *words], {**os.environ, **settings}
        )
    build()
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return subprocess.run(
        [*command, sys.executable, "-m", "tests.systems.image_test", "--inside", *words], check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
