# SPDX-License-Identifier: AGPL-3.0-or-later
"""Which Orthanc the tests run on: see `testing.server` for the variables of the environment that choose it."""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from pathlib import Path


class OrthancFailedError(RuntimeError):
    """Orthanc did not start, or ended while something was asked of it; carries the end of its log."""


def orthanc_executable() -> str:
    """The Orthanc to test on: `ORTHANC`, else the one on PATH, else Debian's."""
    return os.environ.get("ORTHANC") or shutil.which("Orthanc") or "/usr/sbin/Orthanc"


def python_plugin() -> Path:
    """The Python plugin to test on: `ORTHANC_PYTHON_PLUGIN`, else Debian's."""
    return Path(os.environ.get("ORTHANC_PYTHON_PLUGIN") or "/usr/share/orthanc/plugins/libOrthancPython.so").absolute()


def dicomweb_plugin() -> Path:
    """Orthanc's DICOMweb plugin, of the package `orthanc-dicomweb`: beside the Python plugin."""
    return python_plugin().with_name("libOrthancDicomWeb.so")


def embedded_python() -> tuple[int, int]:
    """The version of the CPython inside the plugin, e.g. (3, 11), read off the library that it links."""
    found = re.search(rb"libpython(\d+)\.(\d+)[a-z]?\.so", python_plugin().read_bytes())
    if not found:
        raise OrthancFailedError(f"{python_plugin()} links no libpython: is it Orthanc's Python plugin?")
    return int(found[1]), int(found[2])


def site_packages() -> str | None:
    """Where the embedded Python finds packages: `ORTHANC_SITE`, else ours when both Pythons are of one version."""
    if os.environ.get("ORTHANC_SITE"):
        return os.environ["ORTHANC_SITE"]
    return sysconfig.get_path("purelib") if embedded_python() == sys.version_info[:2] else None
