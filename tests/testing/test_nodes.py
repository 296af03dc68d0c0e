# SPDX-License-Identifier: AGPL-3.0-or-later
"""testing/nodes.py: each switch does what docs/testing.md says, and the page's example runs."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind

from testing import nodes
from testing.dicom import make_study
from testing.nodes import (
    DicomNode,
    HttpAnswer,
    HttpNode,
    answer_json,
    hang_up,
    login_page,
    never_answer,
    pass_on_to,
    redirect_to,
    slow,
)
from testing.server import send_by_cstore

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "testing.md").read_text()
STUDY = {"StudyInstanceUID": "1.2.3", "instances": 2}


@pytest.fixture
def node() -> Iterator[DicomNode]:
    with DicomNode() as each:
        yield each


def store(node: DicomNode, patient: str) -> None:
    send_by_cstore(make_study(patient_id=patient, **STUDY), port=node.port)  # type: ignore[arg-type]


def find(node: DicomNode, level: str, **keys: str) -> list[dict[str, str]]:
    entity = AE()
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelFind)
    association = entity.associate("127.0.0.1", node.port)
    assert association.is_established
    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    answers = [
        answer for _, answer in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind) if answer
    ]
    association.release()
    return [{element.keyword: str(element.value) for element in answer} for answer in answers]


def test_a_node_keeps_what_it_is_sent_and_finds_it_by_its_keys(node: DicomNode) -> None:
    store(node, "A")
    store(node, "B")
    assert node.patients() == ["A", "A", "B", "B"]
    wanted = {"PatientID": "", "StudyInstanceUID": "1.2.3"}
    assert [each["PatientID"] for each in find(node, "STUDY", **wanted)] == ["A", "B"]
    assert len(find(node, "IMAGE", **{**wanted, "PatientID": "B"}, SOPInstanceUID="")) == 2
    assert find(node, "STUDY", StudyInstanceUID="1.2.4") == []
    assert len(node.found) == 3


def test_each_switch_of_a_dicom_node(node: DicomNode) -> None:
    node.drops_duplicates = True
    store(node, "A")
    store(node, "B")
    assert node.patients() == ["A", "A"]
    node.drops_duplicates, node.forgets = False, lambda dataset: dataset.InstanceNumber == 1
    store(node, "C")
    assert node.patients() == ["A", "A", "C"]
    node.refuses = lambda _: True
    with pytest.raises(RuntimeError):
        store(node, "D")
    assert len(node.taken) == 3
    node.refuses, node.forgets, node.delay = (lambda _: False), (lambda _: True), 0.2
    begun = time.monotonic()
    store(node, "E")
    assert time.monotonic() - begun > 0.4
    image = {"PatientID": "", "StudyInstanceUID": "1.2.3", "SOPInstanceUID": ""}
    node.leaves_out = ("IMAGE.PatientID",)
    assert not any("PatientID" in answer for answer in find(node, "IMAGE", **image))
    assert all("PatientID" in answer for answer in find(node, "STUDY", PatientID="", StudyInstanceUID="1.2.3"))
    node.ignores_keys = True
    assert len(find(node, "STUDY", StudyInstanceUID="1.2.4")) == 2


def test_an_http_node_answers_as_it_is_told() -> None:
    with HttpNode(redirect_to("https://pacs.example/at")) as node, HttpNode(answer_json({"a": 1})) as behind:
        answer = requests.post(f"{node.url}/x?y=1", data=b"z", allow_redirects=False, timeout=5)
        assert (answer.status_code, answer.headers["Location"]) == (301, "https://pacs.example/at/x?y=1")
        assert [(each.method, each.path, each.body) for each in node.asked] == [("POST", "/x?y=1", b"z")]
        node.respond = login_page()
        assert requests.get(node.url, timeout=5).headers["Content-Type"] == "text/html"
        node.respond = pass_on_to(behind.url)
        assert requests.put(f"{node.url}/b", data=b"c", timeout=5).json() == {"a": 1}
        assert behind.requests("PUT", "/b")[0].body == b"c"
        node.respond = lambda _: HttpAnswer(503)
        chunks: Any = iter([b"ab", b"c"])
        assert requests.post(node.url, data=chunks, timeout=5).status_code == 503
        assert node.asked[-1].body == b"abc"


def test_an_http_node_is_slow_hangs_up_and_never_answers() -> None:
    with HttpNode(slow(0.3, answer_json({"a": 1}, 500))) as node:
        begun = time.monotonic()
        assert requests.get(node.url, timeout=5).status_code == 500
        assert time.monotonic() - begun >= 0.3
        node.respond = hang_up()
        with pytest.raises(requests.ConnectionError):
            requests.post(node.url, data=b"x", timeout=5)
        node.respond = never_answer()
        with pytest.raises(requests.ReadTimeout):
            requests.get(node.url, timeout=0.5)
        node.respond = answer_json([])
        assert requests.get(node.url, timeout=5).json() == []
        assert len(node.asked) == 4


def test_the_example_of_the_page_runs_and_the_page_names_all_switches_and_answers(tmp_path: Path) -> None:
    found = re.search(r"<!-- awkward nodes -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert found
    (tmp_path / "test_page.py").write_text(found[1])
    run = [sys.executable, "-m", "pytest", "-q", "-p", "testing.pytest_plugin", "test_page.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 passed" in ended.stdout, ended.stdout
    switches = set(inspect.signature(DicomNode).parameters) - {"aet"}
    answers = {
        name for name, value in vars(nodes).items() if inspect.isfunction(value) and value.__module__ == "testing.nodes"
    }
    assert {name for name in switches | answers if not re.search(rf"`{name}\b", PAGE)} == set()
