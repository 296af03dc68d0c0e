# SPDX-License-Identifier: AGPL-3.0-or-later
"""The fixtures that start real Orthancs: what they promise, and what they find out."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pydicom
import pytest
import requests

from testing.dicom import make_study, orthanc_identifier, pydicom_files, uid
from testing.pytest_plugin import StartOrthanc, StoreScp
from testing.server import (
    OrthancFailedError,
    OrthancServer,
    RequestFailedError,
    dcmtk_program,
    embedded_python,
    reserve_port,
    send_by_cstore,
    start_process,
)

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, signal, sys
import orthanc
import pydicom, requests  # not in a handler: the stack there has 100 KiB, and Python 3.14 refuses the import

def echo(output, uri, **request):
    output.AnswerBuffer(f"{sys.version_info[0]}.{sys.version_info[1]} {pydicom.__version__}", "text/plain")

def exit(output, uri, **request):
    os._exit(3)

def changed(change, level, identifier):
    if change == orthanc.ChangeType.ORTHANC_STOPPED and "CRASH" in os.environ:
        os.kill(os.getpid(), signal.SIGSEGV)

orthanc.RegisterOnChangeCallback(changed)
orthanc.RegisterRestCallback("/echo", echo)
orthanc.RegisterRestCallback("/exit", exit)
"""


@pytest.fixture(scope="module")
def server(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    return start_orthanc_for_module(SCRIPT)


def changes(server: OrthancServer, kind: str) -> list[str]:
    return [change["ID"] for change in server.get("/changes")["Changes"] if change["ChangeType"] == kind]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_script_runs_in_the_plugins_python_with_the_packages_of_the_tests(server: OrthancServer) -> None:
    assert server.get("/echo") == f"{'.'.join(map(str, embedded_python()))} {pydicom.__version__}"


def test_the_version_of_the_server_under_test_is_known(server: OrthancServer, orthanc_version: tuple[int, ...]) -> None:
    assert server.get("/system")["Version"] == ".".join(map(str, orthanc_version))


def test_an_answer_of_400_or_more_raises_with_what_it_says(server: OrthancServer) -> None:
    with pytest.raises(RequestFailedError, match=r"(?s)POST http://127\.0\.0\.1:\d+/tools/find answered 400: .*JSON"):
        server.post("/tools/find", "no JSON")
    assert server.request("GET", "/studies/x").status_code == 404


def test_every_dicom_file_of_pydicom_is_stored_by_http_and_by_cstore_still_compressed(
    start_orthanc_for_module: StartOrthanc,
) -> None:
    by_http, by_cstore = start_orthanc_for_module(aet="HTTP"), start_orthanc_for_module(aet="CSTORE")
    stored = [answer["ID"] for answer in by_http.store(pydicom_files())]
    by_cstore.store_scu(pydicom_files())
    assert sorted(by_cstore.get("/instances")) == sorted(by_http.get("/instances")) == sorted(set(stored))
    syntaxes = set()
    for identifier in stored:
        path = f"/instances/{identifier}/metadata/TransferSyntax"
        syntaxes.add(syntax := pydicom.uid.UID(by_http.get(path)))
        in_one_file = stored.count(identifier) == 1  # some images are there in several encodings: the first stays
        assert by_cstore.get(path) == syntax or not (syntax.is_compressed and in_one_file)
    assert len(syntaxes) > 8, "the files are a real mixture"


def test_cstore_tells_what_was_refused(server: OrthancServer) -> None:
    with pytest.raises(RuntimeError, match=r"dcmsend sent 1 files, none were stored \(status [1-9]"):
        server.store_scu(b"no DICOM")
    only_by_http = sorted(set(pydicom_files(cstore=False)) - set(pydicom_files()))
    with pytest.raises(RuntimeError, match=r"dcmsend sent 3 files, 1 were stored \(status 0\)"):
        server.store_scu([*only_by_http, *make_study()])


def test_two_orthancs_and_a_storescp_send_to_each_other(start_orthanc: StartOrthanc, storescp: StoreScp) -> None:
    destination = start_orthanc(aet="DESTINATION")
    origin = start_orthanc(
        configuration={
            "DicomModalities": {"orthanc": destination.as_modality(), "scp": storescp.as_modality()},
            "OrthancPeers": {"peer": destination.as_peer()},
        },
    )
    first, second = make_study(patient_id="1", instances=2), make_study(patient_id="2")
    origin.store(first)
    origin.store_scu(second, aet="CT1")
    one, two = orthanc_identifier("1", uid(0, "1")), orthanc_identifier("2", uid(0, "2"))
    origin.post("/modalities/orthanc/store", one)
    origin.post("/peers/peer/store", two)
    assert sorted(destination.get("/studies")) == sorted([one, two])
    origin.post("/modalities/scp/store", {"Resources": [one, two]})
    assert sorted(path.read_bytes()[-100:] for path in storescp.files()) == sorted(
        content[-100:] for content in [*first, *second]
    )
    assert storescp.log.count("Received Store Request") == 3
    storescp.stop()
    with pytest.raises(RequestFailedError):
        origin.post("/modalities/scp/store", one)
    storescp.start()
    origin.post("/modalities/scp/store", one)


def test_dcmtk_is_found_behind_the_programs_of_an_active_venv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("storescp", "dcmsend"):
        (tmp_path / name).write_text("#!/usr/bin/false\n")  # as pynetdicom installs them
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    scp = StoreScp(tmp_path / "scp")
    try:
        send_by_cstore(make_study(instances=2), port=scp.port)
        assert len(scp.files()) == 2
    finally:
        scp.close()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no storescp of dcmtk on PATH: apt-get install dcmtk"):
        dcmtk_program("storescp")


def test_users_and_http_off_are_understood(start_orthanc: StartOrthanc) -> None:
    users = start_orthanc(configuration={"AuthenticationEnabled": True, "RegisteredUsers": {"alice": "secret"}})
    assert users.get("/system")["Name"] == "ORTHANC"
    assert users.request("GET", "/system", auth=("alice", "wrong")).status_code == 401
    assert users.as_peer() == [f"{users.url}/", "alice", "secret"]
    silent = start_orthanc(SCRIPT, {"HttpServerEnabled": False, "StableAge": 60})
    silent.store_scu(make_study())
    with pytest.raises(requests.ConnectionError):
        silent.request("GET", "/system")


def test_stable_means_that_the_events_have_come_and_a_kill_loses_them_for_good(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc()
    first, second = make_study(patient_id="1", series=2), make_study(patient_id="2")
    server.store(first[0])
    server.wait_until_stable()
    study = orthanc_identifier("1", uid(0, "1"))
    assert changes(server, "StableStudy") == [study]
    server.store(first[1])
    server.store(second)
    server.kill()
    server.start()
    began = time.monotonic()
    server.wait_until_stable()
    assert time.monotonic() - began < 1, "what never comes is not waited for"
    assert changes(server, "StableStudy") == [study]
    server.store(make_study(patient_id="1", instances=2)[1])
    server.wait_until_stable()
    assert changes(server, "StableStudy").count(study) == 2
    assert server.log.count("Orthanc has started") == 2
    server.kill()


def test_stopping_waits_for_what_is_not_stable_yet(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT)
    server.store(make_study(instances=3))
    server.restart()
    assert len(changes(server, "StableStudy")) == 1
    server.kill()  # its end has been looked at


def test_a_script_that_fails_to_load_is_an_error_with_the_end_of_the_log(start_orthanc: StartOrthanc) -> None:
    with pytest.raises(OrthancFailedError, match=r"(?s)ORTHANC ended with status 255 .*no such thing"):
        start_orthanc("import orthanc\nraise ValueError('no such thing')\n")
    with pytest.raises(FileNotFoundError, match=r"no script .*missing\.py"):
        start_orthanc("missing.py")


def test_waiting_ends_when_orthanc_does_and_when_time_is_up(start_orthanc: StartOrthanc) -> None:
    server = start_orthanc(SCRIPT)
    with pytest.raises(OrthancFailedError, match=r"0\.1 s were not enough for: the moon"):
        server.wait_until(lambda: False, timeout=0.1, what="the moon")
    with pytest.raises(requests.ConnectionError):
        server.request("GET", "/exit")
    with pytest.raises(OrthancFailedError, match="ended with status 3 while waiting for: 'more' in the log"):
        server.wait_for_log("more")
    server.expected_exit = 3


def test_a_crash_at_shutdown_fails_the_test_and_a_kill_or_an_expected_status_does_not(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        f"SCRIPT = {SCRIPT!r}\n"
        """
def test_crash(start_orthanc):
    start_orthanc(SCRIPT, environment={"CRASH": "1"})

def test_kill(start_orthanc):
    start_orthanc(SCRIPT, environment={"CRASH": "1"}).kill()

def test_expected(start_orthanc):
    start_orthanc(SCRIPT, environment={"CRASH": "1"}).expected_exit = -11

def test_gone(start_orthanc):
    server = start_orthanc(SCRIPT, aet="GONE")
    try:
        server.get("/exit")
    except OSError:
        pass

def test_log(start_orthanc):
    server = start_orthanc(SCRIPT, aet="FAILING")
    server.kill()
    assert False
"""
    )
    result = pytester.runpytest_inprocess("-p", "testing.pytest_plugin")
    result.assert_outcomes(passed=4, failed=1, errors=2)
    result.stdout.fnmatch_lines(["ORTHANC ended with status -11, not 0:"])
    result.stdout.fnmatch_lines(["GONE ended with status 3, not 0:"])
    result.stdout.fnmatch_lines(["*log of FAILING in */0-FAILING*", "*Orthanc has started"])


def test_nothing_stays_when_the_tests_are_killed_and_a_thread_that_ends_takes_nothing_down(tmp_path: Path) -> None:
    program = (
        "import sys, threading, time\nfrom pathlib import Path\nfrom testing.server import OrthancServer\n"
        "server = OrthancServer(Path(sys.argv[1]))\n"
        "thread = threading.Thread(target=server.start)\nthread.start()\nthread.join()\n"
        "server.get('/system')\nprint(server.process.pid, flush=True)\ntime.sleep(60)\n"
    )
    tests = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert tests.stdout
    with tests, tests.stdout:
        pid = int(tests.stdout.readline())
        assert alive(pid)
        tests.kill()
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline, f"Orthanc {pid} outlives the tests that started it"
        time.sleep(0.01)


def test_a_reserved_port_is_nobody_elses_but_the_servers_we_start() -> None:
    with reserve_port() as reserved, socket.socket() as other, socket.socket() as server:
        port = reserved.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", port))
        server.listen()


def test_a_port_that_somebody_took_makes_it_choose_others(tmp_path: Path) -> None:
    server = OrthancServer(tmp_path)
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("0.0.0.0", server.dicom_port))  # noqa: S104
        thief.listen()
        taken = server.dicom_port
        server.start()
    assert server.dicom_port != taken
    server.store_scu(make_study())
    server.close()


def test_ports_of_the_configuration_are_kept_and_said_when_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = OrthancServer(tmp_path, configuration={"HttpPort": taken.getsockname()[1]})
        with pytest.raises(OrthancFailedError, match="already in use"):
            server.start()
        server.close()


def test_processes_started_side_by_side_get_ports_of_their_own(tmp_path: Path) -> None:
    servers = [OrthancServer(tmp_path / str(number)) for number in range(4)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {server.get("/system")["DicomPort"] for server in servers}
    assert names == {server.dicom_port for server in servers}
    for server in servers:
        server.close()


def test_a_process_has_a_group_of_its_own(tmp_path: Path) -> None:
    process = start_process(["sleep", "60"], log=tmp_path / "log")
    assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
