# SPDX-License-Identifier: AGPL-3.0-or-later
"""A package that is missing or too old is one line, which says what works here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.packages import package_problem
from testing.pytest_plugin import StartOrthanc

ROOT = Path(__file__).parents[2]
OLD = "__version__ = '2.2.0'\n"


@pytest.mark.parametrize("found", ["2.3", "2.3.1", "2.10.0", "3.0.2", "3.1.0.dev0"])
def test_a_version_that_suffices_is_no_problem(found: str) -> None:
    assert package_problem("pydicom", "2.3", found, "python3-pydicom") is None


@pytest.mark.parametrize(("found", "said"), [("2.2.9", "found 2.2.9"), ("1.99", "found 1.99"), (None, "found none")])
def test_one_that_does_not_is_named_with_what_works(found: str | None, said: str) -> None:
    problem = package_problem("pydicom", "2.3", found, "python3-pydicom")
    assert problem
    for part in ("pydicom, 2.3 or newer", said, "apt install python3-pydicom", "docs/install.md"):
        assert part in problem
    assert "\n" not in problem
    assert "apt install" not in str(package_problem("nats-py", "2.16", found))


@pytest.mark.parametrize(
    ("script", "route"), [("instance_dump.py", "/pydicom/x"), ("anonymize_series.py", "/anonymize-series/status")]
)
def test_a_pydicom_that_is_too_old_is_one_line_and_the_script_is_idle(
    start_orthanc: StartOrthanc, tmp_path: Path, script: str, route: str
) -> None:
    folder = tmp_path / "pydicom"  # the script's folder comes first
    folder.mkdir()
    (folder / "__init__.py").write_text(OLD)
    (folder / "charset.py").touch()
    (folder / "filewriter.py").touch()
    (folder / "datadict.py").write_text(
        "def tag_for_keyword(text):\n    return 0x00080060\ndef dictionary_VR(tag):\n    return 'CS'\n"
    )
    shutil.copy(ROOT / script, tmp_path)
    server = start_orthanc(tmp_path / script, {"AnonymizeSeries": {"Secret": "0123456789abcdef" * 4}})
    answer = server.request("GET", route)
    assert answer.status_code == 503
    line = "stays idle: it needs the Python package pydicom, 2.3 or newer (found 2.2.0). Install it: apt install python3-pydicom"
    assert line in answer.json()["Message"]
    assert server.log.count(line) == 1
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("source", "said"), [("raise ImportError('none')\n", "found none"), ("__version__ = '0.22.0'\n", "found 0.22.0")]
)
def test_an_httpx_that_is_missing_or_too_old_is_named_when_the_library_is_imported(
    tmp_path: Path, source: str, said: str
) -> None:
    names = (
        "Client AsyncClient Auth HTTPTransport AsyncHTTPTransport BaseTransport AsyncBaseTransport Response Request URL"
    )
    errors = "RemoteProtocolError ReadError WriteError TransportError ConnectError HTTPError"
    fake = "".join(f"class {name}: pass\n" for name in names.split())
    fake += "".join(f"class {name}(Exception): pass\n" for name in errors.split())
    (tmp_path / "httpx.py").write_text(source + fake)
    shutil.copy(ROOT / "event_dispatcher.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "import event_dispatcher"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: event_dispatcher.py")
    assert f"httpx, 0.23 or newer ({said}). Install it: apt install python3-httpx" in last


def test_the_page_names_each_package_with_the_version_that_the_scripts_ask_for() -> None:
    page = (ROOT / "docs/install.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    asked = set(
        re.findall(r"""\(["']([\w-]+)["'], ["']([\d.]+)["'], (?:[^()]*, )?["'](python3-[\w-]+|)["']\)""", sources)
    )
    asked |= set(re.findall(r'\("(pydicom)", "([\d.]+)", .*, "(python3-\w+)"\)', sources))
    assert {package for package, _, _ in asked} >= {
        "pydicom",
        "httpx",
        "requests",
        "pillow",
        "pika",
        "boto3",
        "nats-py",
        "confluent-kafka",
    }
    for package, least, debian in asked:
        assert f"| `{package}` {least} | {f'`{debian}`' if debian else 'none'} |" in page
