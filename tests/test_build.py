# SPDX-License-Identifier: AGPL-3.0-or-later
"""src/build.py: one readable file of an entry and what it imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from build import Builder, where
from build_sources import BuildError

ROOT = Path(__file__).parent.parent
LEDGER = '"""Durable work."""\nimport os\nfrom typing import Any\n\n\nclass Ledger:\n    folder = os.sep\n'


def write(top: Path, files: dict[str, str]) -> Builder:
    for name, text in files.items():
        path = top / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Builder(top / "src")


def built(builder: Builder, name: str) -> str:
    return "".join(f"{line}\n" for line, _ in builder.built()[builder.out / name])


def test_a_script_is_its_docstring_one_block_of_imports_the_shared_modules_and_its_own_text_last(
    tmp_path: Path,
) -> None:
    builder = write(
        tmp_path,
        {
            "common/ledger.py": LEDGER,
            "script.py": '"""Keeps work.\n\nMore."""\nimport os\nfrom typing import Iterable\n\nimport orthanc\n\n'
            "from common.ledger import Ledger\n\n\ndef register() -> None:\n    Ledger()\n\n\nregister()\n",
        },
    )
    text = built(builder, "script.py")
    assert ast.get_docstring(ast.parse(text)) == "Keeps work.\n\nMore."
    assert text.index("import os\nfrom typing import Any, Iterable\n\nimport orthanc\n") > 0
    assert "# ---- src/common/ledger.py: Durable work.\n" in text
    assert text.index("class Ledger") < text.index("# ---- src/script.py\n") < text.index("def register")
    assert text.endswith("\nregister()\n")
    assert "from common" not in text


def test_a_script_of_a_folder_holds_its_modules_behind_the_shared_ones_and_each_once(tmp_path: Path) -> None:
    builder = write(
        tmp_path,
        {
            "common/ledger.py": LEDGER,
            "script/__init__.py": '"""A script."""\nfrom script.rules import Rule\nfrom common.ledger import Ledger\n\n'
            "use = (Rule, Ledger)\n",
            "script/rules.py": '"""Rules."""\nfrom common.ledger import Ledger\n\n\nclass Rule(Ledger):\n    pass\n',
        },
    )
    text = built(builder, "script.py")
    assert text.count("class Ledger") == 1
    assert (
        text.index("class Ledger")
        < text.index("# ---- src/script/rules.py")
        < text.index("# ---- src/script/__init__.py")
    )
    exec(compile(text, "script.py", "exec"), {"__name__": "script"})  # noqa: S102 - it is what was built just now


def test_modules_that_nothing_imports_and_imports_for_mypy_do_not_come_along(tmp_path: Path) -> None:
    builder = write(
        tmp_path,
        {
            "common/ledger.py": LEDGER,
            "common/days.py": "import calendar\n",
            "script.py": '"""A script."""\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n'
            "    from common.ledger import Ledger\n\nx: Ledger | None = None\n",
        },
    )
    text = built(builder, "script.py")
    assert "class Ledger" not in text
    assert "calendar" not in text


def test_what_must_run_before_an_import_stays_before_it(tmp_path: Path) -> None:
    builder = write(
        tmp_path,
        {
            "common/loopback.py": '"""Calls."""\nimport orthanc\n\nhost = orthanc\n',
            "script.py": '"""A script."""\nimport json\n\ntry:\n    import orthanc\nexcept ImportError:\n    orthanc = None\n\n'
            "from common.loopback import host\n\nuse = (json, host)\n",
        },
    )
    text = built(builder, "script.py")
    assert text.count("import orthanc") == 1
    assert text.index("import json") < text.index("try:") < text.index("host = orthanc")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"common/a.py": "X = 1\n", "script.py": '"""s"""\nfrom common.a import X\n\nX = 2\n'},
            "X is defined at src/common/a.py:1 and at src/script.py:4",
        ),
        ({"common/a.py": "X = 1\n", "script.py": "from common.a import X as y\n"}, "src/script.py:1: .* without `as`"),
        ({"common/a.py": "X = 1\n", "script.py": "import common.a\n"}, "src/script.py:1: write `from common.a import"),
        ({"common/a.py": "X = 1\n", "script.py": "from common.b import X\n"}, "src/script.py:1: there is no common.b"),
        (
            {"common/a.py": "X = 1\n", "script.py": "def f():\n    from common.a import X\n"},
            "src/script.py:2: .* at the top",
        ),
        (
            {
                "common/a.py": "from common.b import Y\n",
                "common/b.py": "from common.a import X\n",
                "script.py": "from common.a import X\n",
            },
            "src/common/a.py -> src/common/b.py -> src/common/a.py",
        ),
        ({"script.py": 'PAGE = embedded("page.html")\n'}, "src/script.py:1: there is no src/page.html"),
    ],
)
def test_what_can_not_be_built_is_an_error_that_names_the_place(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        write(tmp_path, files).built()


def test_what_an_entry_tries_to_import_its_modules_do_not_import_before_it(tmp_path: Path) -> None:
    builder = write(
        tmp_path,
        {
            "script/__init__.py": '"""A."""\ntry:\n    import absent\nexcept ImportError:\n    absent = None\n\n'
            "from script.rules import RULE\n\nuse = RULE\n",
            "script/rules.py": '"""Rules."""\nimport absent\n\nRULE = absent\n',
        },
    )
    text = built(builder, "script.py")
    assert text.count("import absent") == 1
    exec(compile(text, "script.py", "exec"), {"__name__": "script"})  # noqa: S102 - as above


def test_a_file_that_is_no_python_is_embedded_byte_for_byte(tmp_path: Path) -> None:
    page = "a \"quote\", 'another', \\n a backslash\n\né\n no end of line"
    source = '"""s"""\nfrom common.embedded import embedded\n\nPAGE = embedded(\n    "page.html"\n)\nlast = 1\n'
    builder = write(
        tmp_path, {"common/embedded.py": "def embedded(name): ...\n", "script.py": source, "page.html": page}
    )
    found: dict[str, str] = {}
    exec(built(builder, "script.py"), found)  # noqa: S102 - it is what was built just now
    assert found["PAGE"] == page


def test_a_package_is_copied_with_what_it_imports_beside_it(tmp_path: Path) -> None:
    builder = write(
        tmp_path,
        {
            "common/ledger.py": '"""Durable work."""\nfrom common.days import day\n',
            "common/days.py": '"""Days."""\nday = 1\n',
            "dicom_events/__init__.py": '"""Events."""\nfrom .brokers import x\n',
            "dicom_events/brokers/__init__.py": '"""Brokers."""\nfrom common.ledger import day\nx = day\n',
            "dicom_events/requirements.txt": "pika\n",
        },
    )
    assert "from .._common.ledger import day\n" in built(builder, "dicom_events/brokers/__init__.py")
    assert "from .days import day\n" in built(builder, "dicom_events/_common/ledger.py")
    assert built(builder, "dicom_events/requirements.txt") == "pika\n"


def test_a_line_of_a_built_file_leads_to_its_source() -> None:
    builder = Builder(ROOT / "src")
    for name in ("purge_old_studies.py", "dicom_events/_common/ledger.py"):
        lines = (ROOT / name).read_text().splitlines()
        number = next(number for number, line in enumerate(lines, start=1) if line.startswith("class Ledger"))
        file, _, line = where(builder, f"{name}:{number}").rpartition(":")
        assert file == "src/common/ledger.py"
        assert (ROOT / file).read_text().splitlines()[int(line) - 1].startswith("class Ledger")
    with pytest.raises(BuildError, match="no line of a built file"):
        where(builder, "README.md:1")


def test_check_names_what_src_no_longer_gives_and_leaves_it(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    program = tmp_path / "src" / "build.py"
    for name in ("build.py", "build_sources.py"):
        (tmp_path / "src" / name).write_text((ROOT / "src" / name).read_text())
    write(tmp_path, {"script.py": '"""s"""\n', "dicom_events/__init__.py": '"""e"""\n'})

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True, check=False)

    assert run().returncode == 0
    first = (tmp_path / "script.py").read_bytes()
    assert run("--check").returncode == 0
    assert run().returncode == 0
    assert (tmp_path / "script.py").read_bytes() == first
    (tmp_path / "script.py").write_text("edited\n")
    (tmp_path / "dicom_events" / "old.py").write_text("# of a source that is gone\n")
    checked = run("--check")
    assert (checked.returncode, "script.py, dicom_events/old.py" in checked.stderr) == (1, True)
    assert (tmp_path / "script.py").read_text() == "edited\n"
    assert run().returncode == 0
    assert not (tmp_path / "dicom_events" / "old.py").exists()


def test_the_scripts_at_the_top_are_what_src_gives() -> None:
    for path, lines in Builder(ROOT / "src").built().items():
        assert path.read_text() == "".join(f"{line}\n" for line, _ in lines), f"{path.name}: run make build"
