# SPDX-License-Identifier: AGPL-3.0-or-later
"""combine.py as a command: what goes into the file, and how scripts import each other there."""

from __future__ import annotations

from pathlib import Path

from tests.combine.helpers import PLUGIN, run, write
from tests.combine.observe import Observer
from tests.scripts import combine_scripts


def test_a_package_brings_its_modules_and_data_and_what_it_imports_beside_it(
    tmp_path: Path, observer: Observer
) -> None:
    write(
        tmp_path,
        {
            "away/package/__init__.py": (
                "import orthanc, importlib.resources, pkgutil\n"
                "from . import inner\n"
                "from .inner import deep\n"
                "import beside\n"
                "import package.inner as again\n"
                "data = importlib.resources.files(__package__)\n"
                "def tell():\n"
                "    from .lazy import word\n"
                "    return [__name__, deep.value, beside.value, again is inner, word,\n"
                "            data.joinpath('data/a.txt').read_text(), pkgutil.get_data('package', 'data/b.bin')[1],\n"
                "            sorted(p.name for p in data.iterdir())]\n"
                "orthanc.LogWarning(repr(tell()))\n"
            ),
            "away/package/lazy.py": "word = 'lazy'\n",
            "away/package/data/a.txt": "text",
            "away/package/data/b.bin": b"\0\xff",
            "away/package/.hidden": "",
            "away/beside.py": "import only.one as one\nvalue = one.value\n",
            "away/only/one.py": "value = 'a folder without __init__'\n",
        },
    )
    package = tmp_path / "away" / "package"
    write(package, {"inner/__init__.py": "from . import deep\n", "inner/deep.py": "value = 'deep'\n"})
    expected = ["package", "deep", "a folder without __init__", True, "lazy", "text", 255]
    for number, given_as in enumerate((package, package / "__init__.py")):
        seen = observer(combine_scripts(given_as, to=tmp_path / f"combined{number}.py"), PLUGIN)
        names = ["__init__.py", "data", "inner", "lazy.py"]
        assert seen["logs"] == [["warning", f"[package] {[*expected, names]!r}"]]


def test_two_scripts_with_one_helper_have_one_each_as_alone(tmp_path: Path, observer: Observer) -> None:
    text = "import orthanc, helper\nhelper.count()\northanc.LogWarning(str(helper.count()))\n"
    write(
        tmp_path,
        {"a.py": text, "b.py": text, "helper.py": "n = 0\ndef count():\n    global n\n    n += 1\n    return n\n"},
    )
    seen = observer(combine_scripts(tmp_path / "a.py", tmp_path / "b.py", to=tmp_path / "c.py"), PLUGIN)
    assert seen["logs"] == [["warning", "[a] 2"], ["warning", "[b] 2"]]


def test_a_script_that_imports_another_one_of_the_file_gets_that_one(tmp_path: Path, observer: Observer) -> None:
    write(
        tmp_path,
        {
            "a.py": "import orthanc, b\nb.names.append('a')\northanc.LogWarning(str(b.names))\n",
            "b.py": "import orthanc\nnames = []\northanc.LogWarning('once')\n",
        },
    )
    seen = observer(combine_scripts(tmp_path / "a.py", tmp_path / "b.py", to=tmp_path / "c.py"), PLUGIN)
    assert seen["logs"] == [["warning", "[b] once"], ["warning", "[a] ['a']"]]


def test_a_package_of_the_file_is_there_for_the_other_scripts_wherever_it_lies(
    tmp_path: Path, observer: Observer
) -> None:
    write(
        tmp_path,
        {
            "mine/a.py": "import orthanc, events\nevents.names.append('a')\northanc.LogWarning(str(events.names))\n",
            "collection/events/__init__.py": "import events.inner\nnames = [__name__]\n",
            "collection/events/inner.py": "",
        },
    )
    paths = [tmp_path / "mine" / "a.py", tmp_path / "collection" / "events"]
    seen = observer(combine_scripts(*paths, to=tmp_path / "c.py"), PLUGIN)
    assert seen["logs"] == [["warning", "[a] ['events', 'a']"]]


def test_a_script_that_bears_the_name_of_the_library_that_it_imports_gets_the_library(
    tmp_path: Path, observer: Observer
) -> None:
    write(
        tmp_path,
        {
            "in/pydicom.py": "import orthanc, pydicom\northanc.LogWarning(str(hasattr(pydicom, 'dcmread')))\n",
            "other/b.py": "import orthanc, pydicom\northanc.LogWarning(str(hasattr(pydicom, 'dcmread')))\n",
        },
    )
    seen = observer(
        combine_scripts(tmp_path / "in" / "pydicom.py", tmp_path / "other" / "b.py", to=tmp_path / "c.py"), PLUGIN
    )
    assert seen["logs"] == [["warning", "[pydicom_2] True"], ["warning", "[b] True"]]


def test_a_script_named_as_a_library_does_not_hide_it_from_the_others(tmp_path: Path, observer: Observer) -> None:
    write(
        tmp_path,
        {
            "in/random.py": "import orthanc, queue\northanc.LogWarning(__name__ + queue.mine)\n",
            "in/queue.py": "mine = ' has a queue of its own'\n",
            "other/b.py": "import orthanc, random, queue\northanc.LogWarning(str((random.choice([1]), queue.Queue().qsize())))\n",
        },
    )
    seen = observer(
        combine_scripts(tmp_path / "in" / "random.py", tmp_path / "other" / "b.py", to=tmp_path / "c.py"), PLUGIN
    )
    assert seen["logs"] == [["warning", "random_2 has a queue of its own"], ["warning", "[b] (1, 0)"]]


def test_a_line_that_begins_with_the_name_of_its_script_gets_no_other(tmp_path: Path, observer: Observer) -> None:
    lines = ("auto-tests: runs", "auto_tests can't go on", "auto-testsuite: x", "AutoTests.Key is wrong", "auto_tests")
    text = "import orthanc\n" + "".join(f"orthanc.LogWarning({line!r})\n" for line in lines)
    write(tmp_path, {"auto_tests.py": text})
    seen = observer(combine_scripts(tmp_path / "auto_tests.py", to=tmp_path / "c.py"), PLUGIN)
    expected = [*lines[:2], *(f"[auto_tests] {line}" for line in lines[2:])]
    assert seen["logs"] == [["warning", line] for line in expected]


def test_a_script_may_have_the_name_of_the_combined_file(tmp_path: Path, observer: Observer) -> None:
    write(
        tmp_path,
        {
            "in/combined.py": (
                "import orthanc, pickle\nclass C:\n    pass\n"
                "orthanc.LogWarning(__name__ + str(type(pickle.loads(pickle.dumps(C()))) is C))\n"
            )
        },
    )
    seen = observer(combine_scripts(tmp_path / "in" / "combined.py", to=tmp_path / "combined.py"), PLUGIN)
    assert seen["logs"] == [["warning", "[combined] combinedTrue"]]


def test_no_bundle_leaves_out_what_scripts_import(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "import helper\n", "helper.py": "x = 1\n"})
    combine_scripts(tmp_path / "a.py", "--no-bundle", to=tmp_path / "c.py")
    assert "helper.py" not in run("--list", tmp_path / "c.py").stdout


def test_what_stands_under_main_is_neither_run_nor_a_conflict(tmp_path: Path, observer: Observer) -> None:
    text = "import orthanc\nif __name__ == '__main__':\n    orthanc.RegisterMoveCallback(1 / 0)\northanc.LogWarning(__name__)\n"
    paths = write(tmp_path, {"a.py": text, "b.py": text})
    seen = observer(combine_scripts(*paths, to=tmp_path / "c.py"), PLUGIN)
    assert seen["logs"] == [["warning", "[a] a"], ["warning", "[b] b"]]


def test_a_library_that_a_script_loads_gets_the_script_s_orthanc(tmp_path: Path, observer: Observer) -> None:
    write(tmp_path, {"library/tool.py": "import orthanc\ndef log(text):\n    orthanc.LogWarning(text)\n"})
    text = f"import sys\nsys.path.append({str(tmp_path / 'library')!r})\nimport tool\ntool.log('hello')\n"
    (a,) = write(tmp_path, {"a.py": text})
    result = run(a, "-o", tmp_path / "c.py")
    assert (result.returncode, result.stderr.count("\n")) == (0, 1)  # a warning: where it is, only the script knows
    assert "tool" in result.stderr
    assert observer(tmp_path / "c.py", PLUGIN)["logs"] == [["warning", "[a] hello"]]
