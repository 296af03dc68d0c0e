# SPDX-License-Identifier: AGPL-3.0-or-later
"""combine.py beside scripts from elsewhere: whose route it is, what can't be imported, a file that is replaced."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from testing.standin import StandIn
from tests.combine.helpers import PYDICOM_SAMPLE, refused, run, write
from tests.scripts import PACKAGES, SCRIPTS, combine_scripts

combine: Any = importlib.import_module("combine")  # the built file, which is one module
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", [*SCRIPTS, *PACKAGES], ids=lambda path: path.name)
def test_each_route_that_a_script_of_ours_registers_is_found_in_its_text(path: Path) -> None:
    standin = StandIn("7.1")
    with standin.installed():
        standin.load(path / "__init__.py" if path.is_dir() else path)
        registered = {pattern for pattern, _ in standin.registered["RegisterRestCallback"]}
    found = {one.route for one in combine.registrations(combine.read_source(path)) if one.route is not None}
    # What each script has under its own name is not written down: a second script of that name is found when Orthanc starts.
    name = f"/{path.stem.replace('_', '-')}"
    of_status = {name, f"{name}/status", f"{name}/routes", "/with-private-tags/status", "/scripts", "/scripts/health"}
    of_status |= {f"{name}/owed", f"/dicom-web{name}/files/([0-9a-f-]+)"}
    assert found - of_status == registered - of_status
    assert found <= registered
    assert found or path.stem == "auto_retries"


def test_the_sample_of_the_book_and_instance_dump_are_refused_when_they_are_combined(tmp_path: Path) -> None:
    (sample,) = write(tmp_path, {"sample.py": PYDICOM_SAMPLE})
    said = refused(run(sample, ROOT / "instance_dump.py", "-o", tmp_path / "out.py"))
    assert "sample.py, line 8 and instance_dump.py, line " in said
    assert "the same route (/pydicom/(.*) and /pydicom/([^/]+))" in said
    assert not (tmp_path / "out.py").exists()


@pytest.mark.parametrize(
    "text",
    [
        "def add(path, f):\n    orthanc.RegisterRestCallback(path, f)\nadd('/mine', print)\n",
        "class A:\n    def add(self, path, f):\n        orthanc.RegisterRestCallback(path, f)\n"
        "    def all(self):\n        self.add('/mine', print)\n",
        "def register():\n    top = '/mi'\n    orthanc.RegisterRestCallback(f'{top}ne', print)\nregister()\n",
        "for path in ('/other', '/mine'):\n    orthanc.RegisterRestCallback(path, print)\n",
        "routes = {'other': print, 'mine': print}\nfor path, f in routes.items():\n"
        "    orthanc.RegisterRestCallback('/' + path, f)\n",
        "from helper import NAME\north = orthanc\northanc.RegisterRestCallback(f'/{NAME}', print)\n",
    ],
)
def test_a_route_is_found_through_a_function_a_local_name_a_loop_and_an_import(tmp_path: Path, text: str) -> None:
    one, other, _ = write(
        tmp_path,
        {
            "one.py": f"import orthanc\n{text}",
            "other.py": "import orthanc\northanc.RegisterRestCallback('/mine', print)\n",
            "helper.py": "NAME = 'mine'\n",
        },
    )
    assert "the same route (/mine)" in refused(run(one, other, "-o", tmp_path / "out.py"))


def test_what_is_not_written_down_is_no_conflict(tmp_path: Path) -> None:
    text = "import orthanc\ndef add(path):\n    path = path or '/mine'\n    orthanc.RegisterRestCallback(path, print)\nadd({})\n"
    one, other = write(tmp_path, {"one.py": text.format("'/one'"), "other.py": text.format("'/other'")})
    combine_scripts(one, other, to=tmp_path / "out.py")


def test_an_import_that_neither_lies_beside_the_script_nor_is_installed_is_a_warning(tmp_path: Path) -> None:
    script = (
        "import json, orthanc, beside\nfrom nowhere.deep import x\nimport nowhere2 as n\n"
        "try:\n    import optional\nexcept ImportError:\n    optional = None\n"
        "try:\n    import certain\nfinally:\n    pass\n"
    )
    one, *_ = write(tmp_path, {"one.py": script, "beside.py": "import missing_there\n"})
    result = run(one, "-o", tmp_path / "out.py")
    assert result.returncode == 0
    assert (tmp_path / "out.py").exists()
    assert result.stderr == (
        f"combine.py: warning: {one} imports certain, missing_there, nowhere, nowhere2: neither beside the script nor "
        "installed here; Orthanc's Python needs it\n"
    )


def test_what_is_imported_later_is_told_apart_from_what_is_imported_at_load(tmp_path: Path) -> None:
    script = (
        "import orthanc, nowhere\ndef draw():\n    import later, nowhere\n"
        "    try:\n        import optional\n    except ImportError:\n        pass\n"
    )
    (one,) = write(tmp_path, {"one.py": script})
    assert run(one, "-o", tmp_path / "out.py").stderr == (
        f"combine.py: warning: {one} imports nowhere: neither beside the script nor installed here; Orthanc's Python needs it\n"
        f"combine.py: warning: {one} imports later when that part of it is used: neither beside the script nor installed "
        "here; Orthanc's Python needs it then\n"
    )


def test_what_lies_beside_the_combined_file_or_stays_beside_the_script_is_no_warning(tmp_path: Path) -> None:
    one, *_ = write(tmp_path, {"in/one.py": "import a, b\n", "in/a.py": "", "out/b.py": "x = 1\n"})
    combine_scripts(one, "--no-bundle", to=tmp_path / "out" / "combined.py")


def test_a_script_beside_combine_is_not_taken_for_one_that_is_installed(tmp_path: Path) -> None:
    (one,) = write(tmp_path, {"one.py": "import purge_old_studies\n"})
    assert "one.py imports purge_old_studies: neither" in run(one, "-o", tmp_path / "out.py").stderr


def test_brokers_that_nobody_chose_are_not_needed_at_load(tmp_path: Path) -> None:
    """Each kind of broker imports a library of its own, when it is chosen."""
    source = combine.read_source(ROOT / "dicom_events")
    combine.bundle(source, {}, True)
    assert {"boto3", "pika", "nats"} <= source.outside
    names = {name.partition(".")[0] for name in combine.imported(combine.loaded(source))}
    assert not {"boto3", "pika", "nats", "confluent_kafka"} & names
    assert "sqlite3" in names


def test_a_file_that_is_no_combined_one_is_replaced_by_force_alone(tmp_path: Path) -> None:
    one, theirs = write(tmp_path, {"one.py": "x = 1\n", "plugins/__init__.py": "their = 'file'\n"})
    assert "it is left as it is (--force replaces it)" in refused(run(one, "-o", theirs))
    assert theirs.read_text() == "their = 'file'\n"
    combine_scripts(one, "--force", to=theirs)
    assert theirs.read_text().startswith(combine.MARK)
    assert "--force" not in theirs.read_text().partition("\n(")[0]  # the file can be made again without it


def test_no_file_that_goes_in_is_overwritten_also_not_by_force(tmp_path: Path) -> None:
    one, helper = write(tmp_path, {"one.py": "import helper\n", "helper.py": "x = 1\n"})
    for output in (one, helper):
        before = output.read_text()
        assert "is one of the files that go in" in refused(run(one, "--force", "-o", output))
        assert output.read_text() == before
