# SPDX-License-Identifier: AGPL-3.0-or-later
"""examples/cluster and examples/kubernetes: valid by their schemas, and what they run works outside containers too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import requests
import yaml

from testing.awkward import AwkwardNode
from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer, reserve_port, send_by_cstore, start_process
from testing.waiting import wait_until
from tests.postgres import PostgresServer
from tests.scripts import combine_scripts
from tests.several_servers.conftest import StartCluster

ROOT = Path(__file__).parents[2]
CLUSTER, KUBERNETES = ROOT / "examples/cluster", ROOT / "examples/kubernetes"
SCRIPTS = ("auto_forward_modality.py", "dashboard.py")
NGINX = ROOT / "build/nginx"
USER = ("demo", "demo")
RESOURCES: list[dict[str, Any]] = [
    resource
    for file in sorted(KUBERNETES.glob("*.yaml"))
    if file.name != "kustomization.yaml"
    for resource in yaml.safe_load_all(file.read_text())
]


@pytest.fixture
def node() -> Iterator[AwkwardNode]:
    with AwkwardNode("DESTINATION") as found:
        yield found


def configuration(postgres: PostgresServer, node: AwkwardNode, text: str) -> dict[str, Any]:
    """Return what the file has, with the addresses and the folders of a test."""
    text = text.replace("@${PG_HOST}/orthanc", f"@127.0.0.1:{postgres.port}/postgres")
    found: dict[str, Any] = json.loads(text.replace("${PG_PASSWORD}", "secret").replace("${PG_HOST}", "127.0.0.1"))
    for key in ("Name", "DicomAet", "StorageDirectory", "Plugins", "PythonScript", "PostgreSQL"):
        found.pop(key)  # the test's own
    found["DicomModalities"] = {"DESTINATION": node.as_modality()}
    return found


@pytest.fixture
def start_nginx(tmp_path: Path) -> Iterator[Callable[..., tuple[int, int]]]:
    """Start Debian's nginx with the example's configuration between these servers; return its ports of HTTP and DICOM."""
    with ExitStack() as stack:

        def start(first: OrthancServer, second: OrthancServer) -> tuple[int, int]:
            http, dicom = (stack.enter_context(closing(reserve_port())).getsockname()[1] for _ in range(2))
            text = (CLUSTER / "nginx.conf").read_text()
            for name, server in (("orthanc-a", first), ("orthanc-b", second)):
                text = text.replace(f"{name}:8042", f"127.0.0.1:{server.http_port}")
                text = text.replace(f"{name}:4242", f"127.0.0.1:{server.dicom_port}")
            text = text.replace("listen 8042", f"listen 127.0.0.1:{http}").replace(
                "listen 4242", f"listen 127.0.0.1:{dicom}"
            )
            folder = tmp_path / "nginx"
            folder.mkdir()
            places = "".join(
                f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            text = text.replace("http {\n", f"http {{\n{places}access_log off;\n")
            module = NGINX / "usr/lib/nginx/modules/ngx_stream_module.so"
            head = f"load_module {module};\ndaemon off;\nmaster_process off;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
            (folder / "nginx.conf").write_text(head + text)
            command = [str(NGINX / "usr/sbin/nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
            process = start_process(command, log=folder / "out.log", environment={})
            stack.callback(process.wait, 10)
            stack.callback(process.kill)
            wait_until(lambda: is_answered(http), 20, f"nginx answers, see {folder}")
            return http, dicom

        yield start


def is_answered(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/system", auth=USER, timeout=5).ok
    except requests.ConnectionError:
        return False


def test_two_behind_nginx_send_once_and_one_goes_on_when_the_other_is_killed(
    start_cluster: StartCluster,
    start_nginx: Callable[..., tuple[int, int]],
    postgres: PostgresServer,
    node: AwkwardNode,
    tmp_path: Path,
) -> None:
    assert all(f"/etc/orthanc/scripts/{name}" in (CLUSTER / "docker-compose.yml").read_text() for name in SCRIPTS)
    combine_scripts(*(str(ROOT / name) for name in SCRIPTS), to=tmp_path / "combined.py")
    section = configuration(postgres, node, (CLUSTER / "orthanc.json").read_text())
    servers = start_cluster(2, tmp_path / "combined.py", section)
    http, dicom = start_nginx(*servers)
    url = f"http://127.0.0.1:{http}"

    def arrives(studies: range) -> bool:
        for number in studies:
            files = make_study(patient_id=f"P{number}", instances=3)
            if number % 2:
                send_by_cstore(files, port=dicom)
            else:
                for file in files:
                    # Orthanc answers 503 now and then while two servers store at once.
                    wait_until(lambda: requests.post(f"{url}/instances", file, auth=USER, timeout=60).ok)  # noqa: B023
        wait_until(lambda: len({uid for uid, _ in node.received}) == 3 * studies.stop, 60, "all arrive")
        return len(node.received) == 3 * studies.stop

    assert arrives(range(6)), "nothing is sent twice"
    # Whichever of the two is asked, who works answers.
    answers = [requests.get(f"{url}/auto-forward-modality/deliveries", auth=USER, timeout=30) for _ in range(6)]
    assert {(each.status_code, each.json()["Total"]) for each in answers} == {(200, 6)}
    status = requests.get(f"{url}/auto-forward-modality/status", auth=USER, timeout=30).json()
    next(server for server in servers if server.aet == status["WorkedBy"]).kill()
    arrives(range(6, 10))


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_each_manifest_is_valid_by_the_schema_of_kubernetes(resource: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(resource, version, strict=True)


def test_the_compose_file_is_valid_by_its_schema() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [str(program), "--builtin-schema", "vendor.compose-spec", str(CLUSTER / "docker-compose.yml")]
    subprocess.run(command, check=True, capture_output=True)


def test_what_a_pod_is_given_is_what_its_configuration_and_its_user_need() -> None:
    [deployment] = [each for each in RESOURCES if each["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    given = {each["name"] for each in container["env"]}
    asked = set(re.findall(r"\$\{(\w+)\}", (KUBERNETES / "orthanc.json").read_text()))
    assert asked <= given
    mounted = {each["mountPath"] for each in container["volumeMounts"]}
    assert {"/tmp", "/var/lib/orthanc/db"} <= mounted, "all else can't be written"  # noqa: S108
    assert all(name in container["args"][0] for name in SCRIPTS)


def test_orthanc_takes_users_from_the_environment_and_the_probe_asks_as_one(
    start_orthanc: StartOrthanc, tmp_path: Path
) -> None:
    assert '"RegisteredUsers": ${ORTHANC_USERS}' in (KUBERNETES / "orthanc.json").read_text()
    script = combine_scripts(str(ROOT / "auto_forward_modality.py"), to=tmp_path / "combined.py")
    users = {"probe": "pa55"}
    server = start_orthanc(script, {"AuthenticationEnabled": True, "RegisteredUsers": users, "AutoForwardModality": {}})
    program = [sys.executable, str(ROOT / "examples/compose/healthcheck.py"), "ready"]
    environment = {**os.environ, "ORTHANC_HEALTH_URL": f"http://127.0.0.1:{server.http_port}/system"}

    def probe(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(program, env={**environment, **more}, capture_output=True, text=True, check=False)

    wait_until(lambda: probe(ORTHANC_HEALTH_USER="probe:pa55").returncode == 0, 30, "it is ready")
    assert probe().returncode == 1, "without a user it can't know"
