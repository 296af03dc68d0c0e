# SPDX-License-Identifier: AGPL-3.0-or-later
"""A node through which this server asks itself to commit, as by a port forward, proves nothing."""

from __future__ import annotations

import pytest

from tests.forwarding.unit.test_proofs import Proving
from tests.forwarding.unit.test_proofs import proving as proving  # a fixture


def test_a_commitment_that_this_server_was_asked_for_is_none(proving: Proving) -> None:
    job = {"Type": "StorageCommitmentScp", "Content": {"TransactionUid": "another"}}
    proving.rest.answers["GET", "/jobs?expand"] = [{"Type": "DicomModalityStore", "Content": {}}, job]
    assert proving.prove(proof="StorageCommitmentOnly") is None
    proving.report("Success", "1.1", "1.2")
    assert proving.prove(proof="StorageCommitmentOnly") == {"i1", "i2"}
    job["Content"] = {"TransactionUid": "t1"}
    with pytest.raises(ValueError, match="PACS leads back to this server"):
        proving.prove(proof="StorageCommitmentOnly")
