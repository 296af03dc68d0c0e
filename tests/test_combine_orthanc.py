# SPDX-License-Identifier: AGPL-3.0-or-later
"""combine.py on a real Orthanc: scripts that know nothing of it behave together as each does alone."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from testing.dicom import make_study, orthanc_identifier
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancFailedError, OrthancServer, dcmtk_program

COMBINE = Path(__file__).parent.parent / "combine.py"
SAMPLES = Path(__file__).parent / "data" / "combine"


@pytest.fixture(scope="module")
def start(start_orthanc_for_module: StartOrthanc) -> StartOrthanc:
    """Starts servers that end together when all tests are done: ending one takes 3.5 seconds."""
    return start_orthanc_for_module


def combine(folder: Path, *scripts: Path | str, name: str = "combined.py") -> Path:
    """Write a combined file into `folder`; a script given as text is written there first, as script_1.py and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, script in enumerate(scripts, start=1):
        if isinstance(script, str):
            path = folder / "sources" / f"script_{number}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(script)
            paths.append(path)
        else:
            paths.append(script)
    subprocess.run([sys.executable, COMBINE, *paths, "-o", folder / name], check=True)
    return folder / name


def script_status(server: OrthancServer, name: str) -> dict[str, Any]:
    found = [script for script in server.get("/combined-scripts") if script["Name"] == name]
    assert len(found) == 1
    return dict(found[0])


def said(log: str, prefix: str = "") -> list[str]:
    """What the samples log, sorted, without Orthanc's own head of each line; with `prefix`, only lines that carry it."""
    found = re.findall(rf"\] {re.escape(prefix)}((?:stored|in|thread) .*)", log)
    return sorted(line for line in found)


def ordinary_day(server: OrthancServer) -> None:
    """Studies arrive over HTTP and C-STORE, get stable, and one goes again."""
    server.store(make_study(patient_id="ONE", instances=2))
    server.store_scu(make_study(patient_id="TWO", series=2))
    server.wait_until_stable()
    server.delete(f"/patients/{orthanc_identifier('TWO')}")


def test_scripts_behave_together_as_each_does_alone(start: StartOrthanc, tmp_path: Path) -> None:
    paths = {
        "counts_changes": ["/counts-changes", "/counts-changes/a/b"],
        "keeps_state": ["/keeps-state"],
        "uses_timers": ["/uses-timers?q=1", "/uses-timers/fail?what=tea"],
    }
    together = start(combine(tmp_path, *(SAMPLES / f"{name}.py" for name in paths)))
    alone = {name: start(SAMPLES / f"{name}.py") for name in paths}
    for name in ("keeps_state", "uses_timers"):
        alone[name].expected_exit = None  # 1.12.7 and later crash on a lambda or a bound method; combined they don't
    for server in (together, *alone.values()):
        ordinary_day(server)
    for name, server in alone.items():
        server.wait_for_log(f"{name} deleted the last")
        together.wait_for_log(f"{name} deleted the last")
    for name, server in alone.items():
        for path in paths[name]:
            answers = [one.request("GET", path) for one in (server, together)]
            assert answers[0].text == answers[1].text
            assert answers[0].status_code == answers[1].status_code
        own = said(together.log, f"[{name}] ")
        assert [line.replace(f"{name}: ", "") for line in own] == said(server.log)
    for server in (together, alone["keeps_state"]):
        assert server.request("POST", "/keeps-state", data=b"body").json()["body"] == "body"
        assert server.request("DELETE", "/keeps-state").json()["method"] == "DELETE"
    for server in (together, alone["uses_timers"]):
        assert "a button of uses_timers" in server.request("GET", "/plugins/explorer.js").text
    printed = [server.log.count("counts_changes saw the instance") for server in (together, alone["counts_changes"])]
    assert printed == [4, 4]
    assert said(together.log, "[uses_timers] ")[0] == "in uses_timers: work"


def test_requests_are_filtered_as_alone(start: StartOrthanc, tmp_path: Path) -> None:
    script = SAMPLES / "filters_requests.py"
    allows = "import orthanc\northanc.RegisterIncomingHttpRequestFilter(lambda uri, **request: True)\n"
    servers = [start(script), start(combine(tmp_path, allows, script, allows))]
    answers = []
    for server in servers:
        assert server.request("GET", "/statistics").status_code == 403
        assert server.request("GET", "/statistics", headers={"X-Word": "please"}).status_code == 200
        answers.append(server.get("/filters-requests"))
    assert answers[0] == answers[1]


def test_instances_are_refused_as_alone_and_the_first_refusal_stands(start: StartOrthanc, tmp_path: Path) -> None:
    script = SAMPLES / "filters_instances.py"
    refuses = "import orthanc\northanc.RegisterIncomingCStoreInstanceFilter(lambda received: 0xc123)\n"
    servers = [start(script), start(combine(tmp_path, script, name="two.py"))]
    last = start(combine(tmp_path / "last", script, refuses))
    for server in servers:
        server.store_scu(make_study(patient_id="TAKEN"))
        with pytest.raises(RuntimeError, match="Refused: OutOfResources"):  # 0xA700
            server.store_scu(make_study(patient_id="REFUSED"))
        assert len(server.get("/instances")) == 1
    assert servers[0].get("/filters-instances") == servers[1].get("/filters-instances")
    with pytest.raises(RuntimeError, match="Refused: OutOfResources"):
        last.store_scu(make_study(patient_id="REFUSED"))
    with pytest.raises(RuntimeError, match="Error: CannotUnderstand"):  # 0xC123
        last.store_scu(make_study(patient_id="TAKEN"))
    assert last.get("/instances") == []


def test_received_instances_go_from_script_to_script(start: StartOrthanc, tmp_path: Path) -> None:
    second = (
        "import orthanc\n"
        "def received(dicom, origin):\n"
        "    action = orthanc.ReceivedInstanceAction\n"
        "    if b'CALLED' in dicom:\n"
        "        return action.MODIFY, dicom.replace(b'CALLED', b'TWICE!')\n"
        "    if b'BROKEN' in dicom:\n"
        "        return 'no tuple of an action and bytes'\n"
        "    return action.KEEP_AS_IS, None\n"
        "orthanc.RegisterReceivedInstanceCallback(received)\n"
    )
    server = start(combine(tmp_path, SAMPLES / "renames_on_arrival.py", second))
    for patient in ("RENAME", "DISCARD", "AS-IS", "BROKEN"):
        server.request("POST", "/instances", data=make_study(patient_id=patient)[0])
    patients = {patient["MainDicomTags"]["PatientID"] for patient in server.get("/patients?expand")}
    assert patients == {"TWICE!", "AS-IS", "BROKEN"}
    assert "[script_2] Error in the Python received instance callback" in server.log


def test_a_callback_that_costs_every_store_is_registered_only_where_a_script_asked_for_it(
    start: StartOrthanc, tmp_path: Path
) -> None:
    server = start(combine(tmp_path, SAMPLES / "counts_changes.py", SAMPLES / "uses_timers.py"), verbose=True)
    registered = re.findall(r"Registering (?:one|a) (Python [^:\n]*)", server.log)
    assert sorted(registered) == ["Python REST callback on URI"] * 6 + ["Python on-changes callback"]


def test_three_scripts_of_one_name_with_the_same_globals_don_t_meet(start: StartOrthanc, tmp_path: Path) -> None:
    text = (
        "import orthanc\n"
        "orthanc.note = '{0}'\n"
        "value = '{0}'\n"
        "class Answer:\n    pass\n"
        "def answer(output, uri, **request):\n"
        "    import orthanc\n"
        "    text = ' '.join([value, orthanc.note, __name__, Answer.__module__, __file__.rsplit('/', 1)[1]])\n"
        "    output.AnswerBuffer(text, 'text/plain')\n"
        "orthanc.RegisterRestCallback('/{0}', answer)\n"
    )
    paths = []
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.py").write_text(text.format(folder))
        paths.append(tmp_path / folder / "same.py")
    server = start(combine(tmp_path, *paths))
    assert [server.get(f"/{one}") for one in "abc"] == [
        "a a same same same.py",
        "b b same_2 same_2 same.py",
        "c c same_3 same_3 same.py",
    ]


def test_a_traceback_names_the_script_s_own_file_line_and_text(start: StartOrthanc, tmp_path: Path) -> None:
    third = (
        "import orthanc\n\n"
        "def on_change(change, level, resource):\n"
        "    raise LookupError('third')  # the line itself\n\n"
        "orthanc.RegisterOnChangeCallback(on_change)\n"
        "orthanc.RegisterRestCallback('/third', lambda output, uri, **request: on_change(1, 2, 3))\n"
    )
    server = start(
        combine(tmp_path, SAMPLES / "counts_changes.py", SAMPLES / "keeps_state.py", third),
    )
    server.wait_for_log("[script_3] Error in the Python on-changes callback")
    frame = re.compile(
        r'File ".*/script_3\.py", line 4, in on_change\n\s+raise LookupError\(.third.\)  # the line itself'
    )
    assert frame.search(server.wait_for_log("raise LookupError"))
    before = len(frame.findall(server.log))
    assert server.request("GET", "/third").status_code == 500
    server.wait_until(lambda: len(frame.findall(server.log)) > before)
    server.wait_until(lambda: script_status(server, "counts_changes")["Callbacks"][0]["Calls"] > 0)
    status = script_status(server, "script_3")
    assert status["Callbacks"][0]["Errors"] == status["Callbacks"][0]["Calls"] > 0
    assert script_status(server, "counts_changes")["Callbacks"][0]["Errors"] == 0


def test_a_script_that_fails_to_load_stops_orthanc_with_its_name_and_line(start: StartOrthanc, tmp_path: Path) -> None:
    failing = "import orthanc\n\northanc.RegisterOnChangeCallback(print)\nraise ValueError('not today')\n"
    server = start(combine(tmp_path, SAMPLES / "counts_changes.py", failing), start=False)
    server.expected_exit = 255
    with pytest.raises(OrthancFailedError):
        server.start()
    assert "The script script_2 failed to load: ValueError at script_2.py, line 4" in server.log
    assert "not today" in server.log


def test_a_script_that_fails_to_load_can_be_left_out(start: StartOrthanc, tmp_path: Path) -> None:
    failing = (
        "import orthanc\n"
        "register = lambda kind, *args: getattr(orthanc, f'Register{kind}Callback')(*args)\n"
        "register('Rest', '/counts-changes', lambda output, uri, **request: None)\n"
        "register('Move', lambda **request: None)\n"
        "raise ValueError('not today')\n"
    )
    server = start(
        combine(tmp_path, failing, SAMPLES / "counts_changes.py", SAMPLES / "moves.py"),
        {"CombinedScripts": {"OnLoadError": "skip"}},
    )
    assert server.get("/counts-changes").startswith("('counts_changes'")
    status = script_status(server, "script_1")
    assert (status["State"], status["Error"]) == ("failed", "ValueError at script_1.py, line 5")
    assert script_status(server, "moves")["State"] == "loaded"
    assert "Orthanc goes on without script_1" in server.log
    assert "line 5, in <module>\n    raise ValueError(" in server.log


def test_a_wrong_setting_is_an_error_line_and_the_default(start: StartOrthanc, tmp_path: Path) -> None:
    server = start(
        combine(tmp_path, SAMPLES / "keeps_state.py"),
        {"CombinedScripts": {"OnLoadError": "ignore", "LogPrefix": False, "LogPrefixes": 1}},
    )
    assert 'OnLoadError is "ignore", allowed is "stop" or "skip": "stop" is used' in server.log
    assert "CombinedScripts has no key 'LogPrefixes': did you mean 'LogPrefix'?" in server.log
    server.store(make_study())
    assert re.search(r"\] stored \d+ bytes", server.log)


def test_two_owners_found_at_load_stop_orthanc_by_name(start: StartOrthanc, tmp_path: Path) -> None:
    hidden = "import orthanc\ngetattr(orthanc, 'Register' + 'MoveCallback')(lambda **request: None)\n"
    server = start(combine(tmp_path, SAMPLES / "moves.py", hidden), start=False)
    server.expected_exit = 255
    with pytest.raises(OrthancFailedError):
        server.start()
    assert "script_2 and moves both register RegisterMoveCallback" in server.log


def test_a_route_found_taken_at_load_stops_orthanc_by_name(start: StartOrthanc, tmp_path: Path) -> None:
    hidden = "import orthanc\nfor path in ('/x', '/counts-changes/y'):\n    orthanc.RegisterRestCallback(path, lambda *a: 0)\n"
    server = start(combine(tmp_path, SAMPLES / "counts_changes.py", hidden), start=False)
    server.expected_exit = 255
    with pytest.raises(OrthancFailedError):
        server.start()
    assert "script_2 and counts_changes both register the route /counts-changes/y and /counts-changes(.*)" in server.log


def test_where_conflicts_are_allowed_the_first_wins_and_the_log_says_so(start: StartOrthanc, tmp_path: Path) -> None:
    paths = [tmp_path / "s1.py", tmp_path / "s2.py"]
    for path in paths:
        answer = f"lambda output, uri, **request: output.AnswerBuffer('{path.stem}', 'text/plain')"
        path.write_text(f"import orthanc\northanc.RegisterRestCallback('/same', {answer})\n")
    subprocess.run([sys.executable, COMBINE, "--allow-conflict", *paths, "-o", tmp_path / "both.py"], check=True)
    server = start(tmp_path / "both.py")
    assert server.request("GET", "/same").text == "s1"
    assert "s2 and s1 both register the route /same: s1 has it, as it came first (--allow-conflict)" in server.log


def test_lambdas_and_bound_methods_don_t_crash_orthanc_at_its_end(start: StartOrthanc, tmp_path: Path) -> None:
    text = (
        "import orthanc\n"
        "class Handler:\n"
        "    def answer(self, output, uri, **request):\n"
        "        output.AnswerBuffer('bound', 'text/plain')\n"
        "orthanc.RegisterRestCallback('/bound', Handler().answer)\n"
        "orthanc.RegisterRestCallback('/lambda', lambda o, u, **r: o.AnswerBuffer('lambda', 'text/plain'))\n"
        "orthanc.RegisterOnStoredInstanceCallback(lambda dicom, instance: None)\n"
        "orthanc.RegisterIncomingHttpRequestFilter(lambda uri, **request: True)\n"
        "orthanc.RegisterFindCallback(lambda answers, query, issuer, called: None)\n"
    )
    server = start(combine(tmp_path, text, SAMPLES / "counts_changes.py"))
    assert (server.get("/bound"), server.get("/lambda")) == ("bound", "lambda")
    server.store(make_study())
    assert server.stop() == 0


def test_stopping_reaches_every_script_although_one_raises_and_one_hangs(start: StartOrthanc, tmp_path: Path) -> None:
    text = (
        "import orthanc, threading, sqlite3\n"
        "def on_change(change, level, resource):\n"
        "    global database\n"
        "    if change == orthanc.ChangeType.ORTHANC_STARTED:\n"
        "        database = sqlite3.connect(':memory:')\n"
        "    if change == orthanc.ChangeType.ORTHANC_STOPPED:\n"
        "        database.close()  # alone it is the thread that opened it\n"
        "        orthanc.LogWarning('had its end')\n"
        "        {}\n"
        "orthanc.RegisterOnChangeCallback(on_change)\n"
    )
    ends = ["pass", "raise ValueError('at the end')", "threading.Event().wait()", "pass"]
    server = start(combine(tmp_path, *(text.format(end) for end in ends)))
    server.settle()
    server.terminate()
    before = time.monotonic()
    assert server.finish() == 0
    assert 5 <= time.monotonic() - before < 5 + 3.5 + 5
    assert re.findall(r"\[(script_\d)\] had its end", server.log) == [f"script_{number}" for number in (1, 2, 3, 4)]
    assert "[script_2] Error in the Python on-changes callback" in server.log
    assert "Left script_3 in its OnChange after 5 s" in server.log


def test_a_script_that_is_busy_when_orthanc_stops_is_waited_for_as_alone(start: StartOrthanc, tmp_path: Path) -> None:
    slow = (
        "import orthanc, time\n"
        "def on_change(change, level, resource):\n"
        "    if change == orthanc.ChangeType.NEW_PATIENT:\n"
        "        orthanc.LogWarning('begins')\n"
        "        time.sleep(6)\n"
        "        orthanc.RestApiGet('/system')  # inside the SDK when it is left: Orthanc would abort\n"
        "        orthanc.LogWarning('ends')\n"
        "    if change == orthanc.ChangeType.ORTHANC_STOPPED:\n"
        "        orthanc.LogWarning('had its end')\n"
        "orthanc.RegisterOnChangeCallback(on_change)\n"
    )
    server = start(combine(tmp_path, slow, slow.replace("sleep(6)", "sleep(0)")), {"StableAge": 60})
    server.store(make_study())
    server.wait_for_log("[script_1] begins")
    assert server.stop(when_stable=False) == 0
    said = re.findall(r"\[(script_\d)\] (ends|had its end)", server.log)
    assert said == [
        ("script_1", "ends"),
        ("script_2", "ends"),
        ("script_1", "had its end"),
        ("script_2", "had its end"),
    ]


def test_events_come_on_the_thread_on_which_they_come_alone(start: StartOrthanc, tmp_path: Path) -> None:
    text = (
        "import orthanc, threading\n"
        "def on_change(change, level, resource):\n"
        "    if change != orthanc.ChangeType.ORTHANC_STOPPED:\n"
        "        orthanc.LogWarning(f'thread {threading.get_native_id()} {type(threading.current_thread()).__name__}')\n"
        "orthanc.RegisterOnChangeCallback(on_change)\n"
    )
    for script in (text, combine(tmp_path, text, text)):
        server = start(script)
        server.store(make_study())
        server.settle()
        assert {kind for _, kind in re.findall(r"thread (\d+) (\w+)", server.log)} == {"_DummyThread"}
        assert len(set(re.findall(r"thread (\d+) \w+", server.log))) == 1


def test_moves_and_finds_are_answered_as_alone(start: StartOrthanc, tmp_path: Path) -> None:
    known = {"DicomModalities": {"asks": ["ASKS", "127.0.0.1", 104]}}
    scripts = [SAMPLES / f"{name}.py" for name in ("counts_changes", "moves", "commits")]
    servers = [start(script, known) for script in (scripts[1], combine(tmp_path, *scripts))]
    said = []
    for server in servers:
        ask = ["-aet", "ASKS", "-aec", "ORTHANC", "-k", "QueryRetrieveLevel=PATIENT", "-k", "PatientID=P"]
        where = ["127.0.0.1", str(server.dicom_port)]
        found = subprocess.run(
            [dcmtk_program("findscu"), "-P", *ask, *where], capture_output=True, text=True, check=True
        )
        moved = subprocess.run(
            [dcmtk_program("movescu"), "-v", "-P", "-aem", "THERE", *ask, *where],
            capture_output=True,
            text=True,
            check=False,
        )
        line = next(line for line in server.log.splitlines() if "move {" in line)
        said.append(("FOUND" in found.stderr + found.stdout, moved.returncode, line.partition("move ")[2]))
    assert said[0] == said[1]
    assert said[0][0] is True
    assert '"TargetAET": "THERE"' in said[0][2]


def test_storage_commitment_is_answered_as_alone(
    start: StartOrthanc, tmp_path: Path, orthanc_version: tuple[int, ...]
) -> None:
    scripts: list[Path | None] = [
        SAMPLES / "commits.py",
        combine(tmp_path, SAMPLES / "moves.py", SAMPLES / "commits.py"),
    ]
    asks = start(None, {"DicomModalities": {}}, aet="ASKS")
    found = []
    for number, script in enumerate(scripts):
        server = start(script, {"DicomModalities": {"asks": asks.as_modality()}})
        asks.put("/modalities/commits", server.as_modality())
        wanted = {"DicomInstances": [{"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": f"1.2.{number}"}]}
        transaction = asks.post("/modalities/commits/storage-commitment", wanted)["Path"]

        def answered(path: str = transaction) -> bool:
            return bool(asks.get(path)["Status"] != "Pending")

        asks.wait_until(answered)
        found.append((asks.get(transaction)["Status"], "commitment of 1 asked" in server.log))
    # No such instance is there: only the script says that it is. The oldest plugin has no such callback.
    expected = ("Success", True) if orthanc_version >= (1, 12) else ("Failure", False)
    assert found == [expected, expected]


def test_the_example_of_the_documentation_works(start: StartOrthanc, tmp_path: Path) -> None:
    page = (COMBINE.parent / "docs" / "combine.md").read_text()
    greet = tmp_path / "greet.py"
    greet.write_text(page.partition("```python\n")[2].partition("```")[0])
    ours = [COMBINE.parent / name for name in ("auto_forward_modality.py", "purge_old_studies.py")]
    server = start(combine(tmp_path, *ours, greet))
    server.store(make_study())
    server.wait_until(lambda: server.request("GET", "/greet").text == "1 studies since the start")
    assert [script["Name"] for script in server.get("/combined-scripts")] == [*(path.stem for path in ours), "greet"]
