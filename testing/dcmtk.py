# SPDX-License-Identifier: AGPL-3.0-or-later
"""dcmtk's programs: DICOM nodes that are not Orthanc."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from testing.dicom import Storable, part10_files

DCMTK_ENVIRONMENT = {"TCP_NODELAY": "1"}  # without: 11 to 45 instances a second (Nagle and delayed acknowledgements)


def dcmtk_program(name: str) -> str:
    """The path of one of dcmtk's programs: not pynetdicom's script of that name, which an active venv puts before it.

    Raises
    ------
    FileNotFoundError
        If it is not installed.
    """
    for folder in os.get_exec_path():
        if program := shutil.which(name, path=folder):
            with Path(program).open("rb") as file:
                if file.read(2) != b"#!":
                    return program
    raise FileNotFoundError(f"no {name} of dcmtk on PATH: apt-get install dcmtk")


def send_by_cstore(files: Storable, *, port: int, aet: str = "STORESCU", called: str = "ANY-SCP") -> str:
    """Send files, bytes or datasets to a port of this machine with dcmtk's `dcmsend`, as they are, in order; its report."""
    program = dcmtk_program("dcmsend")
    number = -1
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for number, content in enumerate(part10_files(files)):
            names.append(f"{number:08}.dcm")
            (Path(folder) / names[-1]).write_bytes(content)
        # By name: the files of a folder are sent in whatever order its file system lists them.
        ended = subprocess.run(
            [program, "-v", "-dn", "-nuc", "-aet", aet, "-aec", called, "127.0.0.1", str(port), *names],
            cwd=folder,
            env={**os.environ, **DCMTK_ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    counts = dict(
        re.findall(r"^I: *(?:-|\*)? *(.+?) *: (\d+)$", ended.stdout.rpartition("Status Summary")[2], re.MULTILINE)
    )
    stored = counts.get("with status SUCCESS")
    if ended.returncode or stored != str(number + 1):  # its status is 0, too, when the peer refused some
        raise RuntimeError(
            f"dcmsend sent {number + 1} files, {stored or 'none'} were stored (status {ended.returncode}):\n"
            f"{ended.stdout[-4000:]}"
        )
    return ended.stdout
