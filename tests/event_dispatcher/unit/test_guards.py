# SPDX-License-Identifier: AGPL-3.0-or-later
"""event_dispatcher without a server: no call after Orthanc's end, no handler that runs nothing, a queue for each handler."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest

from tests.fakes import eventually


@pytest.fixture(scope="module")
def part(source_for_module: Any) -> Any:
    """The module of a name."""
    return lambda name: source_for_module(f"event_dispatcher.{name}")


def test_after_orthancs_end_no_call_begins(part: Any) -> None:
    gate = part("gate").Gate()
    with gate.calling():
        pass
    gate.close()
    with pytest.raises(part("gate").StoppedError), gate.calling():
        pytest.fail("it began")
    gate.open()
    with gate.calling():
        pass


def test_orthancs_end_waits_for_the_calls_that_are_under_way(part: Any) -> None:
    gate, goes_on, order = part("gate").Gate(), threading.Event(), list[str]()

    def call() -> None:
        with gate.calling():
            goes_on.wait()
            order.append("call")

    def close() -> None:
        gate.close()
        order.append("closed")

    calling = threading.Thread(target=call, daemon=True)
    calling.start()
    eventually(lambda: gate._inside == 1)
    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    eventually(lambda: not gate.is_open)
    with pytest.raises(part("gate").StoppedError), gate.calling():
        pytest.fail("it began")
    closing.join(0.05)
    assert closing.is_alive()
    goes_on.set()
    calling.join()
    closing.join()
    assert order == ["call", "closed"]


def test_a_call_that_fails_is_not_under_way_any_more(part: Any) -> None:
    gate = part("gate").Gate()
    with pytest.raises(ValueError, match="odd"), gate.calling():
        raise ValueError("odd")
    gate.close()


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", "x.y", "x\n"])
def test_a_ledger_has_a_name_that_stays_in_its_folder(part: Any, name: str) -> None:
    part("at_least_once").AtLeastOnce("a-B_1").check()
    with pytest.raises(ValueError, match=r"at_least_once: found .*, allowed: letters, digits, _ and -"):
        part("at_least_once").AtLeastOnce(name).check()


def test_a_durability_that_is_none_is_refused(part: Any) -> None:
    part("at_least_once").AtLeastOnce("a", durability="full").check()
    with pytest.raises(ValueError, match=r"AtLeastOnce.durability: found 'most', allowed: normal, full"):
        part("at_least_once").AtLeastOnce("a", durability="most").check()


def test_each_handler_has_a_queue_of_its_own_by_a_name_that_a_restart_finds(part: Any) -> None:
    def made() -> Any:
        def handler(_event: Any, _session: Any) -> None: ...

        return handler

    first, second, third = made(), made(), made()
    found = part("subscriptions").Subscriptions({part("events").Name(3, "NEW_STUDY"): [first, second, first, third]})
    name = "test_each_handler_has_a_queue_of_its_own_by_a_name_that_a_restart_finds.<locals>.made.<locals>.handler"
    assert found.queues_of("NEW_STUDY") == [name, f"{name}#2", name, f"{name}#3"]
    assert found.handlers == {name: first, f"{name}#2": second, f"{name}#3": third}
    assert found.number_of("NEW_STUDY") == 3
    assert (found.queues_of("DELETED"), found.number_of("DELETED")) == ([], -1)


def test_what_runs_nothing_when_it_is_called_is_no_handler(part: Any) -> None:
    def generator(_event: Any, _session: Any) -> Any:
        yield

    class Generating:
        def __call__(self, _event: Any, _session: Any) -> Any:
            yield

    check = part("events").check_handler
    check(print)
    for handler in (generator, functools.partial(generator, 1), Generating()):
        with pytest.raises(ValueError, match="a generator function"):
            check(handler)
    with pytest.raises(ValueError, match="handlers: found 'print', allowed: a function"):
        check("print")
