# SPDX-License-Identifier: AGPL-3.0-or-later
"""event_dispatcher.py on a real Orthanc: what another handler ended is, with `at_least_once`, run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from testing.dicom import make_study
from testing.pytest_plugin import StartOrthanc
from tests.event_dispatcher.test_orthanc import Notes, written

INTERRUPTED = """
from event_dispatcher import AtLeastOnce

turns = 0

async def works(event, session):
    global turns
    turns += 1
    note("begun", turns)
    await asyncio.sleep(1 if turns == 1 else 0)
    note("works", turns)

def plain(event, session):
    note("plain")

async def interrupts(event, session):
    if turns == 1:
        await asyncio.sleep(0.3)
        {how}

register_event_handlers(
    {{CHANGE.NEW_STUDY: [works, interrupts, plain]}}, orthanc, create_session(orthanc),
    at_least_once=AtLeastOnce("mine", first=1, longest=1))
"""
HOW = {
    "cancels all tasks": "[task.cancel() for task in asyncio.all_tasks() if task is not asyncio.current_task()]",
    "stops the loop": "asyncio.get_running_loop().stop()",
}


@pytest.mark.parametrize("how", HOW)
def test_what_a_handler_ended_is_named_and_run_again_and_functions_do_not_notice(
    start_orthanc: StartOrthanc, tmp_path: Path, how: str
) -> None:
    notes = Notes(tmp_path)
    server = start_orthanc(written(tmp_path / "scripts", INTERRUPTED.format(how=HOW[how])), notes.configuration)
    server.store(make_study())
    if how == "cancels all tasks":
        server.wait_until(lambda: notes.has("works 2"))
        assert not notes.has("works 1")
        server.assert_logged("works failed on ChangeEvent(change_type=NEW_STUDY", level="error")
    else:  # what was running goes on
        server.wait_until(lambda: notes.has("works 1"))
        server.assert_logged("stopped the event loop, which begins again; running: ", level="error")
        [line] = [line for line in server.log.splitlines() if "begins again" in line]
        assert "works" in line
    server.wait_until(lambda: notes.lines().count("plain") == 1)
