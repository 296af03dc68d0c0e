# SPDX-License-Identifier: AGPL-3.0-or-later
"""testing/awkward.py: each switch does what docs/testing.md says, and the page's example runs."""

from __future__ import annotations

import inspect
import io
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import (
    CTImageStorage,
    MRImageStorage,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from testing.awkward import AwkwardNode
from testing.dicom import make_study
from testing.waiting import wait_until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text()
SYNTAXES = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]


@pytest.fixture
def node() -> Iterator[AwkwardNode]:
    with AwkwardNode() as each:
        yield each


def associate(node: AwkwardNode, seconds: float = 10) -> Any:
    entity = AE("SENDER")
    entity.acse_timeout = entity.dimse_timeout = seconds
    for context in (CTImageStorage, MRImageStorage):
        for syntax in SYNTAXES:
            entity.add_requested_context(context, syntax)
    entity.add_requested_context(Verification)
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    return entity.associate("127.0.0.1", node.port)


def study(patient: str, instances: int = 1, modality: str = "CT") -> list[Dataset]:
    files = make_study(patient_id=patient, instances=instances, modality=modality, StudyInstanceUID="1.2.3")
    return [pydicom.dcmread(io.BytesIO(file)) for file in files]


def send(association: Any, images: list[Dataset]) -> list[int | None]:
    """The status of each C-STORE, None where there was no answer."""
    return [association.send_c_store(image).get("Status") for image in images]


def store(node: AwkwardNode, images: list[Dataset]) -> list[int | None]:
    association = associate(node)
    assert association.is_established
    try:
        return send(association, images)
    finally:
        association.release()


def test_it_takes_everything_and_says_from_whom(node: AwkwardNode) -> None:
    images = study("A", 3)
    assert store(node, images) == [0, 0, 0]
    assert node.received == [(str(image.SOPInstanceUID), "SENDER") for image in images]
    assert node.patients() == ["A", "A", "A"]
    assert (node.most_at_once, node.rejections) == (1, 0)


def test_it_answers_0x0111_to_what_it_has(node: AwkwardNode) -> None:
    store(node, study("A"))
    node.duplicates_0111 = True
    assert store(node, study("A", 2)) == [0x0111, 0]
    assert (len(node.taken), len(node.received)) == (2, 3)


def test_it_drops_what_it_has_under_another_patient_and_only_that(node: AwkwardNode) -> None:
    node.drops_duplicates_of_another_patient = True
    assert store(node, [*study("A"), *study("A"), *study("B")]) == [0, 0, 0]
    assert node.patients() == ["A", "A"]


def test_it_takes_one_association_at_a_time_and_the_next_one_at_once(node: AwkwardNode) -> None:
    node.one_association = True
    first = associate(node)
    assert first.is_established
    second = associate(node)
    assert (second.is_rejected, second.is_established) == (True, False)
    first.release()
    for _ in range(20):
        assert store(node, study("A")) == [0]
    broken = associate(node)
    broken.abort()
    deadline = time.monotonic() + 5
    while not (last := associate(node)).is_established and time.monotonic() < deadline:
        time.sleep(0.02)
    assert last.is_established
    last.release()
    assert node.most_at_once == 1
    assert node.rejections >= 1


def test_it_counts_associations(node: AwkwardNode) -> None:
    several = [associate(node) for _ in range(12)]
    assert all(one.is_established for one in several)
    for one in several:
        one.release()
    assert node.most_at_once == 12


@pytest.mark.parametrize("name", ["CTImageStorage", "1.2.840.10008.5.1.4.1.1.2"])
def test_it_rejects_a_sop_class_and_no_other(node: AwkwardNode, name: str) -> None:
    node.rejects_sop_classes = [name]
    association = associate(node)
    accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
    association.release()
    assert CTImageStorage not in accepted
    assert {MRImageStorage, Verification} <= accepted
    node.rejects_sop_classes = []
    assert store(node, study("A")) == [0]


@pytest.mark.parametrize("name", ["ExplicitVRLittleEndian", "1.2.840.10008.1.2.1"])
def test_it_rejects_a_transfer_syntax_and_no_other(node: AwkwardNode, name: str) -> None:
    node.rejects_transfer_syntaxes = [name]
    association = associate(node)
    accepted = {
        str(syntax)
        for context in association.accepted_contexts
        if context.abstract_syntax == CTImageStorage
        for syntax in context.transfer_syntax
    }
    association.release()
    assert accepted == {"1.2.840.10008.1.2"}


def test_it_is_slow(node: AwkwardNode) -> None:
    node.seconds_per_image = 0.2
    begun = time.monotonic()
    store(node, study("A", 3))
    assert time.monotonic() - begun >= 0.6


def test_it_breaks_off_each_association_after_so_many_images(node: AwkwardNode) -> None:
    node.breaks_off_after = 2
    images = study("A", 5)
    association = associate(node)
    assert send(association, images[:3]) == [0, 0, None]
    wait_until(lambda: association.is_aborted, what="be told that it was aborted")
    association = associate(node)
    assert send(association, images[2:4]) == [0, 0]
    association.release()
    assert [image for image, _ in node.received] == [str(image.SOPInstanceUID) for image in images[:4]]


def test_it_filters(node: AwkwardNode) -> None:
    node.filters = lambda dataset: dataset.InstanceNumber == 2
    assert store(node, study("A", 3)) == [0, 0, 0]
    assert [dataset.InstanceNumber for dataset in node.taken] == [1, 3]
    assert len(node.received) == 3


@pytest.mark.parametrize("is_left_out", [False, True])
def test_it_finds_with_and_without_the_patient_id(node: AwkwardNode, is_left_out: bool) -> None:
    store(node, study("A"))
    node.find_without_patient_id = is_left_out
    query = Dataset()
    query.QueryRetrieveLevel, query.PatientID, query.StudyInstanceUID = "STUDY", "", "1.2.3"
    association = associate(node)
    answers = [one for _, one in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind) if one]
    association.release()
    assert [("PatientID" in one, one.StudyInstanceUID) for one in answers] == [(not is_left_out, "1.2.3")]


def test_it_never_answers_until_it_does(node: AwkwardNode) -> None:
    node.never_answers = True
    begun = time.monotonic()
    assert not associate(node, seconds=0.5).is_established
    assert time.monotonic() - begun < 5
    waiting: list[Any] = []
    thread = threading.Thread(target=lambda: waiting.append(associate(node)))
    thread.start()
    time.sleep(0.3)
    assert waiting == []
    node.never_answers = False
    thread.join()
    assert waiting[0].is_established
    waiting[0].release()
    node.one_association = True  # the connection that was given up is not counted as open
    assert store(node, study("A")) == [0]


def test_its_end_breaks_what_is_open_although_it_never_answers_or_is_slow() -> None:
    with AwkwardNode(seconds_per_image=600) as node:
        association = associate(node)
        statuses: list[int | None] = []
        thread = threading.Thread(target=lambda: statuses.extend(send(association, study("A"))))
        thread.start()
        time.sleep(0.3)
    thread.join(10)
    assert not thread.is_alive()
    assert statuses in ([None], [0])
    begun = time.monotonic()
    with AwkwardNode(never_answers=True) as node:
        thread = threading.Thread(target=associate, args=(node,))
        thread.start()
        time.sleep(0.3)
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - begun < 10


def test_the_example_of_the_page_runs_and_the_page_names_all_switches(tmp_path: Path) -> None:
    found = re.search(r"<!-- awkward node: a PACS -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found
    (tmp_path / "test_page.py").write_text(found[1])
    run = [sys.executable, "-m", "pytest", "-q", "-p", "testing.pytest_plugin", "test_page.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 passed" in ended.stdout, ended.stdout
    switches = set(inspect.signature(AwkwardNode).parameters) - {"aet"}
    assert {name for name in switches if f"| `{name}` |" not in PAGE} == set()
