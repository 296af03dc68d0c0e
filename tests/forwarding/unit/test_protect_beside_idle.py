# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding: ProtectUndelivered where another forwarder can't say which patients it protects."""

from __future__ import annotations

from tests.forwarding.unit.fake_forwarding import Forwarding
from tests.forwarding.unit.test_protection import PATIENT, deliver, other_forwarder, put
from tests.forwarding.unit.test_protection import protecting as protecting


def test_who_is_protected_by_nobody_is_protected(protecting: Forwarding) -> None:
    other_forwarder(protecting, protecting.rest.error(503, "it stays idle: Destinations"))
    protecting.receive("a1", "1")
    protecting.turn(20)
    assert protecting.rest.protected == {PATIENT}
    other_forwarder(protecting, {"Protected": []})
    deliver(protecting)
    assert protecting.rest.protected == set()


def test_who_is_protected_is_asked_about_until_it_can_say_by_whom(protecting: Forwarding) -> None:
    protecting.rest.protected = {PATIENT}
    other_forwarder(protecting, protecting.rest.error(503, "it stays idle: Destinations"))
    protecting.receive("a1", "1")
    protecting.turn(20)
    other_forwarder(protecting, {"Protected": []})
    protecting.turn(20)
    deliver(protecting)
    assert protecting.rest.protected == {PATIENT}  # by a person
    assert put(protecting) == []
