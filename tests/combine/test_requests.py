# SPDX-License-Identifier: AGPL-3.0-or-later
"""What scripts of a combined file tell each other of their requests to Orthanc."""

from __future__ import annotations

from typing import Any

from tests.combine.helpers import module


def script(name: str) -> Any:
    return module.Script(name, f"{name}.py", "", None, "", {}, {}, {}, state="loaded")


def test_who_listens_hears_of_each_request_of_the_others_and_none_of_its_own() -> None:
    requests = module.OwnRequests(module.Log({}, {}))
    log, purge = script("log"), script("purge")
    heard: list[Any] = []
    requests.report(purge, ("GET", "/before"))
    requests.listen(log, lambda *found: heard.append(found))
    requests.report(log, ("GET", "/own"))
    requests.report(purge, ("GET", "/system"))
    assert heard == [("purge", ("GET", "/system"))]


def test_a_listener_that_fails_keeps_no_request_from_being_sent() -> None:
    logged: list[str] = []
    requests = module.OwnRequests(module.Log({"LogError": logged.append}, {}))

    def fail(*_: Any) -> None:
        raise SystemExit("no")

    requests.listen(script("log"), fail)
    requests.report(script("purge"), ("GET", "/system"))
    assert "Error in the listen_to_requests" in logged[0]


def test_a_script_that_fails_to_load_does_not_listen() -> None:
    requests = module.OwnRequests(module.Log({}, {}))
    broken = script("log")
    broken.state = "loading"
    requests.listen(broken, lambda *_: None)
    assert requests.listeners == ()
