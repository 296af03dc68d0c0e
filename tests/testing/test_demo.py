# SPDX-License-Identifier: AGPL-3.0-or-later
"""`make demo`: what a newcomer sees first."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import requests

ROOT = Path(__file__).parents[2]


def demo(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "testing.demo", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, process_group=0
    )


def running_below(folder: Path) -> list[str]:
    """The command lines of processes that name the folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # ended meanwhile
        if str(folder) in line and path.parent.name != str(os.getpid()):
            lines.append(line)
    return lines


def free_ports() -> tuple[str, str]:
    """Ports with room above, where the kernel gives none to the other tests that run now."""
    http = random.randrange(10_000, 20_000)
    return str(http), str(http + 5_000)


def look_where_it_says(output: str) -> None:
    """Follow each address of what else there is, and find there what the line before it says."""
    told = re.findall(
        r"^  (\S.*?):? {2,}(\S+)$", output.partition("What else there is:\n")[2].partition("\n\n")[0], re.M
    )
    assert len(told) == 5, output
    places = {what: (number, where) for line, where in told for number, what in [split_number(line)]}
    picture = requests.get(places["A series as a small picture"][1], timeout=10)
    assert (picture.status_code, picture.headers["Content-Type"]) == (200, "image/jpeg")  # an icon is SVG
    number, where = places["events in a file"]
    assert len((ROOT / where).read_text().splitlines()) >= number > 100
    number, where = places["lines of the audit log"]
    assert requests.get(where, timeout=10).json()["Total"] >= number > 10
    number, where = places["studies that a purge would delete"]
    assert f"DryRun: True\nSince: 19991231\nStudies: {number}\n" in requests.get(where, timeout=10).text
    where = places["An anonymized copy of a study"][1]
    copy = requests.get(where.replace("/app/explorer.html#study?uuid=", "/studies/"), timeout=10).json()
    assert copy["PatientMainDicomTags"]["PatientID"] not in output  # the table has those of all patients


def split_number(line: str) -> tuple[int, str]:
    number, _, rest = line.partition(" ")
    return (int(number), rest) if number.isdigit() else (0, line)


def test_every_study_arrives_taken_ports_are_left_alone_and_ctrl_c_leaves_nothing_running() -> None:
    # One test: both runs use the folder .demo.
    with socket.socket() as somebody:
        taken = int(free_ports()[0])
        somebody.bind(("", taken))
        somebody.listen()
        process = demo("--exit", "--http-port", str(taken), "--dicom-port", free_ports()[1])
        output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert f"Port {taken} is in use by another program, which is left alone" in output
    rows = [re.split(r" {2,}", line) for line in output.partition("Patient ")[2].partition("\n\n")[0].splitlines()[2:]]
    assert len(rows) >= 15
    for patient, _study, modality, here, there, seconds in rows:
        assert patient, modality
        assert int(here) == int(there) > 0
        assert 0 < float(seconds) < 60
    assert "Everything arrived." in output
    as_it_is, remedied = (
        float(re.search(rf"^  {how}: +50 images in ([0-9.]+) s$", output, re.M)[1])  # type: ignore[index]
        for how in ("as it is", "with TCP_NODELAY=1")
    )
    assert as_it_is > remedied > 0

    # As where a shell starts the tests in the background, which makes them and what they start ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = demo(*[word for pair in zip(("--http-port", "--dicom-port"), free_ports(), strict=True) for word in pair])
    signal.signal(signal.SIGINT, before)
    watchdog = threading.Timer(180, process.terminate)
    watchdog.start()
    with process:
        assert process.stdout
        lines = iter(process.stdout.readline, "")
        seen = "".join(line for line in iter(lambda: next(lines), "Press Ctrl-C to stop both.\n"))
        assert "/auto-forward-modality/deliveries" in seen
        assert running_below(ROOT / ".demo")
        look_where_it_says(seen)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert watchdog.is_alive(), "Ctrl-C did not end it"
    watchdog.cancel()
    assert process.returncode == 0
    assert running_below(ROOT / ".demo") == []
