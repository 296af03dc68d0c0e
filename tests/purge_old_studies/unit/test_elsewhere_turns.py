# SPDX-License-Identifier: AGPL-3.0-or-later
"""purge_old_studies without a server: what a destination lacks holds up no other study."""

from __future__ import annotations

import pytest

from tests.fakes import eventually
from tests.purge_old_studies.unit.elsewhere_helpers import BY_SPACE, Elsewhere
from tests.purge_old_studies.unit.elsewhere_helpers import filling as filling  # a fixture
from tests.purge_old_studies.unit.elsewhere_helpers import purging as purging  # a fixture
from tests.purge_old_studies.unit.test_guards import RULE, purge
from tests.purge_old_studies.unit.test_space import Filling


@pytest.mark.parametrize("other", [("VNA", "C-FIND"), ("PACS", "StorageCommitmentOnly")])
def test_what_one_question_did_not_prove_is_asked_by_another_one(
    filling: Filling,
    purging: Elsewhere,
    other: tuple[str, str],
) -> None:
    purging.has("PACS", purging.found)

    def lack(name: str, _studies: list[str]) -> None:
        is_lacking = name == "VNA" or purging.proofs[-1] == "StorageCommitmentOnly"
        purging.there[name] = set() if is_lacking else everything

    everything = {*purging.there["PACS"]}
    purging.before = lack
    filling.start(Rules=[{**BY_SPACE, "Proof": "C-FIND", "WhenDiskAbove": "20GB", "DownTo": "13GB"}])
    filling.looked()
    assert len(purge(purging, since="20200101", **{"only-if-at": [other[0]], "proof": other[1]}).json()["Kept"]) == 14
    filling.add(*range(115, 123))
    everything |= {instance for some in purging.instances.values() for instance in some}
    eventually(lambda: len(purging.found) == 13)
    assert "a101" not in purging.found


def test_the_oldest_that_are_nowhere_else_hold_up_no_rule_by_space(
    filling: Filling,
    purging: Elsewhere,
) -> None:
    """However few are asked for before the first ones may be asked for again."""
    purging.has("PACS", purging.found)
    purging.there["PACS"] -= {f"a{number}-{part}" for number in range(101, 109) for part in (1, 2)}
    purging.before = lambda *_: purging.clock.advance(3.5 * 3600)
    filling.start(Rules=[{**BY_SPACE, "AtMost": 2, "WhenDiskAbove": "13GB", "DownTo": "12GB"}])
    eventually(lambda: len(purging.found) == 12)
    assert {study for study in purging.found if study <= "a108"} == {f"a{number}" for number in range(101, 109)}


def test_a_limit_is_not_filled_each_time_with_what_is_nowhere_else(purging: Elsewhere) -> None:
    purging.has("PACS", ["c3"])
    purging.start(Rules=[{**RULE, "OnlyIfAt": ["PACS"], "Limit": 1}])
    asked = {"only-if-at": ["PACS"], "limit": 1}
    kept = [purge(purging, **asked).json()["Kept"] for _ in range(2)]
    assert kept == [["a1"], ["b2"]]
    assert purge(purging, **asked).json()["Deleted"] == 1
    purging.clock.advance(60)
    assert [purge(purging, **asked).json()["Kept"] for _ in range(2)] == [["a1"], ["b2"]]
