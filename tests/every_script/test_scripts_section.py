# SPDX-License-Identifier: AGPL-3.0-or-later
"""The section `Scripts`, which is for all scripts: what is mistyped in it leaves each of them idle, and is named in one line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from event_dispatcher import create_session
from testing.standin import OrthancApiHandler, StandIn
from tests.common.unit.test_scripts_section import ALLOWED, ELSEWHERE, HERE
from tests.every_script.test_misspelt_keys import ROOT, SECTIONS, Script, misspellings
from tests.every_script.test_misspelt_keys import script as script


def test_the_section_leaves_each_script_running_if_it_is_right(script: Script) -> None:
    for section in ({}, {"Loopback": {}}, {"Loopback": {"Url": None}}, *({"Loopback": {"Url": url}} for url in HERE)):
        assert script.start({**script.configuration, "Scripts": section}) == []
        assert not script.is_refused()


def test_an_address_that_another_machine_may_have_leaves_each_script_idle(script: Script) -> None:
    for url in ELSEWHERE:
        [line] = script.start({**script.configuration, "Scripts": {"Loopback": {"Url": url}}})
        assert line.startswith("Scripts.Loopback.Url"), line
        assert ALLOWED in line
        assert "secret" not in line
        script.check_idle(line)


def test_each_misspelt_key_and_the_misspelt_section_leave_each_script_idle(script: Script) -> None:
    for wrong in misspellings("Loopback"):
        [line] = script.start({**script.configuration, "Scripts": {wrong: {}}})
        assert line.startswith(f"Scripts.{wrong} is not a known key (did you mean Loopback?)")
        script.check_idle(line)
    for wrong in misspellings("Url"):
        [line] = script.start({**script.configuration, "Scripts": {"Loopback": {wrong: HERE[0]}}})
        assert line.startswith(f"Scripts.Loopback.{wrong} is not a known key (")
        assert "Url" in line
        script.check_idle(line)
    for wrong in misspellings("Scripts"):
        [line] = script.start({**script.configuration, wrong: {}})
        assert line.startswith(f"{wrong} is not a known section (did you mean Scripts?)")
        script.check_idle(line)
    for wrong_value in (["x"], "x", {"Loopback": "http://127.0.0.1:8043"}, {"Loopback": {"Url": 8043}}):
        [line] = script.start({**script.configuration, "Scripts": wrong_value})
        assert line.startswith("Scripts")
        script.check_idle(line)


@pytest.fixture(scope="module")
def dump() -> Iterator[Script]:
    """A script without a section of its own."""
    standin = StandIn()
    SECTIONS["instance_dump.py"] = ("InstanceDump", {})
    try:
        with standin.installed():
            yield Script(standin, "instance_dump.py")
    finally:
        del SECTIONS["instance_dump.py"]


def test_instance_dump_is_idle_too(dump: Script) -> None:
    assert (ROOT / "instance_dump.py").exists()
    assert dump.start({"Scripts": {"Loopback": {"Url": HERE[0]}}}) == []
    [line] = dump.start({"Scripts": {"Loopback": {"Url": ELSEWHERE[0]}}})
    assert line.startswith('Scripts.Loopback.Url: found "http://10.0.0.1:8043", allowed: ')
    assert line.endswith("instance_dump is idle until this is corrected.")
    dump.check_idle(line)


def test_create_session_goes_to_the_address_and_refuses_a_wrong_one() -> None:
    orthanc = OrthancApiHandler(
        configuration={"HttpPort": 443, "SslEnabled": True, "Scripts": {"Loopback": {"Url": HERE[2]}}}
    )
    with create_session(orthanc) as session:
        assert session.base_url == "http://[::1]:1"
    orthanc = OrthancApiHandler(configuration={"Scripts": {"Loopback": {"Url": ELSEWHERE[0]}}})
    with pytest.raises(ValueError, match=r"Scripts\.Loopback\.Url: found"):
        create_session(orthanc)
