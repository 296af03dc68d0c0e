# SPDX-License-Identifier: AGPL-3.0-or-later
"""ProtectUndelivered beside a forwarder that is idle, since its configuration is wrong, on a real Orthanc."""

from __future__ import annotations

from pathlib import Path

from testing.pytest_plugin import StartOrthanc
from tests.forwarding.test_protect_undelivered import configured, store, wait_for
from tests.scripts import combine_scripts

ROOT = Path(__file__).parents[2]


def test_who_waits_is_protected_although_another_forwarder_can_not_say_what_it_needs(
    start_briefly: StartOrthanc, tmp_path: Path
) -> None:
    node, path = start_briefly(aet="PACS", start=False), tmp_path / "combined.py"
    both = [ROOT / f"auto_forward_{kind}.py" for kind in ("modality", "peer")]
    combine_scripts(*both, to=path)
    server = start_briefly(path, {**configured(node), "AutoForwardPeer": {"Destinatoins": []}})
    wait_for(server, [store(server, "P1")], protected=True)
