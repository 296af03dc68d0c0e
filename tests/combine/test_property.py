# SPDX-License-Identifier: AGPL-3.0-or-later
"""What a generated script can observe when combined is what it observes alone, on each version of the plugin."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from testing.standin import known_versions
from tests.combine.observe import Observer, observing
from tests.scripts import combine_scripts

ROOT = Path(__file__).parents[2]
HEAD = """\
import orthanc, os, sys, traceback
def say(*words):
    import orthanc
    orthanc.LogWarning(" ".join(str(word) for word in words))
say("I am", __name__, os.path.basename(__file__), __package__, __doc__, sys.modules[__name__].__dict__ is globals())
say("constants", orthanc.ChangeType.STABLE_STUDY, orthanc.__name__, hasattr(orthanc, "mine"))
total = 0
"""
# What a generated script may do, each piece with its number {n} so that routes don't meet.
PIECES = {
    "changes": """\
def on_change(change, level, resource):
    global total
    total += 1
    say("change", change, level, resource, total)
    if change == orthanc.ChangeType.{when}:
        raise RuntimeError("change failed")
orthanc.RegisterOnChangeCallback(on_change)
""",
    "stored": """\
def on_stored(dicom, instance):
    say("stored", dicom.GetInstanceSize(), instance)
    raise SystemExit({n})
orthanc.RegisterOnStoredInstanceCallback(on_stored)
""",
    "requests": """\
def accept(uri, **request):
    say("asked", uri, sorted(request.items()))
    request["headers"]["a"] = "changed"
    if uri == "/broken":
        raise RuntimeError("filter {n} failed")
    return {{"/closed": False, "/odd": {n}}}.get(uri, True)
orthanc.RegisterIncomingHttpRequestFilter(accept)
""",
    "instances": """\
def accept_instance(dicom):
    patient = dicom.GetInstanceRemoteAet()
    say("instance", patient)
    if patient == "BROKEN":
        raise RuntimeError("instance filter {n} failed")
    return {{"BAD": 0xa700 + {n}}}.get(patient, 0)
orthanc.RegisterIncomingCStoreInstanceFilter(accept_instance)
""",
    "received": """\
orthanc.RegisterReceivedInstanceCallback(
    lambda dicom, origin: (orthanc.ReceivedInstanceAction.MODIFY, dicom + b"{n}"))
""",
    "routes": """\
class Handler:
    def __init__(self, word):
        self.word = word
    def __call__(self, output, uri, **request):
        global total
        total += 1
        if request["method"] == "DELETE":
            raise KeyError(self.word)
        output.AnswerBuffer("%s %s %s %d" % (self.word, uri, sorted(request.items()), total), "text/plain")
orthanc.RegisterRestCallback("/route{n}", Handler("first"))
orthanc.RegisterRestCallback("/route{n}/(.*)", Handler("second").__call__)
orthanc.RegisterRestCallback("/route{n}/(.*)", Handler("never"))
""",
    "attributes": """\
orthanc.mine = "of {n}"
orthanc.LogInfo = lambda text, log=orthanc.LogInfo: log("mine: " + text)
def read_back():
    import orthanc as o, importlib
    from orthanc import mine
    o.LogInfo("%s %s %s" % (mine, importlib.import_module("orthanc").mine, __import__("orthanc") is orthanc))
    exec("import orthanc; orthanc.LogError(orthanc.mine)", {{}})
read_back()
""",
    "threads": """\
import threading
def work():
    import orthanc
    say("in thread", threading.current_thread().name, getattr(orthanc, "mine", None))
thread = threading.Thread(target=work, name="worker {n}")
thread.start()
thread.join()
""",
    "errors": """\
def fail():
    raise ZeroDivisionError("on purpose")  # {n}
try:
    fail()
except ZeroDivisionError:
    say(traceback.format_exc().replace(os.path.dirname(__file__), ""))
try:
    orthanc.RegisterOnChangeCallback()
except Exception as error:
    say(type(error).__name__, error)
""",
    "classes": """\
import dataclasses, inspect, pickle, typing
@dataclasses.dataclass
class Point:
    x: "int" = {n}
    other: "typing.Optional[Point]" = None
say(Point.__module__, pickle.loads(pickle.dumps(Point(1, Point()))), typing.get_type_hints(Point)["x"])
say(inspect.getsource(Point), inspect.getmodule(Point).__name__)
""",
    "helper": """\
import helper
from helper import count
import helper.deep as deep
say(helper.__name__, helper.__file__.rsplit("/", 2)[1:], count(), count(), deep.up(), deep.__package__)
say(helper.data())
""",
    "twice": """\
try:
    orthanc.RegisterOnStoredInstanceCallback(print)
    orthanc.RegisterOnStoredInstanceCallback(print)
except RuntimeError as error:
    say(error)
""",
}
HELPER = {
    "helper/__init__.py": """\
import orthanc, pkgutil, importlib.resources
counter = 0
def count():
    global counter
    counter += 1
    orthanc.LogWarning("helper counts for " + str(getattr(orthanc, "mine", None)))
    return counter
def data():
    name = __package__
    return [importlib.resources.files(name).joinpath("data", "a.txt").read_text(), pkgutil.get_data(name, "data/b.bin")]
""",
    "helper/deep.py": "from . import count\nfrom .more.far import away\ndef up():\n    return count(), away\n",
    "helper/more/__init__.py": "",
    "helper/more/far.py": "from ... import helper as top\naway = 'far'\n".replace(
        "from ... import helper as top\n", ""
    ),
    "helper/data/a.txt": "text\n",
    "helper/data/b.bin": "\\x00\\xff",
}


@dataclass
class Generated:
    """A script to be: its name, what it does, and how it is written down."""

    name: str
    pieces: tuple[str, ...]
    when: str
    form: str
    future: bool

    def write(self, folder: Path, number: int) -> Path:
        """Write it, and its helper, into a folder of its own."""
        folder.mkdir()
        text = "from __future__ import annotations\n" if self.future else ""
        text += HEAD + "".join(PIECES[piece].format(n=number, when=self.when) for piece in self.pieces)
        coding, newline = {"latin-1": ("latin-1", "\n"), "crlf": ("utf-8", "\r\n"), "bom": ("utf-8-sig", "\n")}.get(
            self.form, ("utf-8", "\n")
        )
        head = "# -*- coding: latin-1 -*-\n" if self.form == "latin-1" else ""
        text = f'{head}"""Écrit\\n \'\'\' à la main."""\n{text}'
        path = folder / f"{self.name}.py"
        path.write_bytes(text.replace("\n", newline).encode(coding))
        if "helper" in self.pieces:
            for name, content in HELPER.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(content)
        return path


scripts = st.lists(
    st.builds(
        Generated,
        name=st.sampled_from(["alpha", "beta", "gamma-ray"]),
        pieces=st.lists(st.sampled_from(sorted(PIECES)), unique=True, max_size=7).map(
            lambda pieces: tuple(
                piece for piece in pieces if not {"stored", "twice"} <= set(pieces) or piece != "twice"
            )
        ),
        when=st.sampled_from(["NEW_INSTANCE", "ORTHANC_STOPPED", "LOST"]).map(
            lambda name: name.replace("LOST", "DELETED")
        ),
        form=st.sampled_from(["plain", "latin-1", "crlf", "bom"]),
        future=st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def observer() -> Iterator[Observer]:
    with observing() as one:
        yield one


def as_alone(text: str, module: str, name: str) -> str:
    """Take out of a line the two things that may differ: the prefix, and the name of the second of two."""
    text = text.removeprefix(f"[{module}] ").replace(f"{module}: ", "").replace(f"/{module}/{name}.py", f"/{name}.py")
    return text.replace(module, name)


@pytest.mark.parametrize("plugin", known_versions())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(generated=scripts)
def test_what_a_script_observes_combined_is_what_it_observes_alone(
    generated: list[Generated], plugin: str, observer: Observer
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        paths = [one.write(top / str(number), number) for number, one in enumerate(generated, start=1)]
        combine_scripts(*paths, to=top / "combined.py")
        combined = observer(top / "combined.py", plugin)
        alone = [observer(path, plugin) for path in paths]
    used: dict[str, int] = {}
    for one, seen in zip(generated, alone, strict=True):
        used[one.name] = used.get(one.name, 0) + 1
        module = one.name if used[one.name] == 1 else f"{one.name}_{used[one.name]}"
        errors = f"[{module}] Error in the Python "
        said = [
            [level, as_alone(text, module, one.name)]
            for level, text in combined["logs"]
            if text.startswith((f"[{module}] ", f"{module} ")) and not text.startswith(errors)
        ]
        expected = [[level, text] for level, text in seen["logs"]]
        assert [line for line in said if "helper" not in line[1]] == [
            line for line in expected if "helper" not in line[1]
        ]
        assert len(said) == len(expected)
        for pattern, answers in seen["routes"].items():
            assert combined["routes"][pattern] == answers
    check_filters(combined, alone)


def check_filters(combined: dict[str, Any], alone: list[dict[str, Any]]) -> None:
    """The first that refuses stands; what one script makes of an instance is what the next receives."""
    for kind, allowed in (("requests", "True"), ("instances", "0")):
        answers = [seen[kind] for seen in alone if kind in seen]
        refusals = [[answer for answer in each if repr(answer) != allowed] for each in zip(*answers, strict=True)]
        assert combined.get(kind, []) == [each[0] if each else json.loads(allowed.lower()) for each in refusals]
    received = [seen["received"] for seen in alone if "received" in seen]
    if received:
        assert combined["received"] == [received[0][0], "x" + "".join(text[1:] for _, text in received)]
