# SPDX-License-Identifier: AGPL-3.0-or-later
"""Real DICOM files that nobody here wrote: pydicom's own, and those of the packages in tests/corpus_packages."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import pydicom
import pydicom.data
from pydicom.errors import InvalidDicomError

# Made by `testing/install test`.
PACKAGES = Path(__file__).parents[1] / "build" / "corpus"
PREAMBLE_BYTES = 128


@functools.cache
def corpus_files() -> list[tuple[str, Path]]:
    """Return name and path of each DICOM file, sorted by name; of files with the same bytes, the first.

    A name is the path in the package, as `pydicom/data/test_files/CT_small.dcm`. The files are for reading only.

    Raises FileNotFoundError where the packages are not installed.
    """
    if not PACKAGES.is_dir():
        raise FileNotFoundError(f"{PACKAGES} is missing: run testing/install test")
    pydicom_folder = Path(pydicom.__file__).parent
    found = [(path.relative_to(PACKAGES).as_posix(), path) for path in PACKAGES.rglob("*")]
    found += [(path.relative_to(pydicom_folder.parent).as_posix(), path) for path in pydicom_folder.rglob("data/**/*")]
    files: dict[bytes, tuple[str, Path]] = {}
    for name, path in sorted(found):
        if path.is_file() and is_dicom(path):
            files.setdefault(hashlib.sha256(path.read_bytes()).digest(), (name, path))
    return list(files.values())


def is_dicom(path: Path) -> bool:
    """Return whether a file has DICOM's preamble, or can be read without and says which object it is."""
    with path.open("rb") as file:
        start = file.read(PREAMBLE_BYTES + 4)
    if start[PREAMBLE_BYTES:] == b"DICM":
        return True
    if start[:2] not in (b"\2\0", b"\x08\0", b"\0\2", b"\0\x08"):  # group 0002 or 0008, little or big endian
        return False
    try:
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
    except (InvalidDicomError, ValueError, NotImplementedError, EOFError, KeyError):
        return False
    return "SOPClassUID" in dataset and "SOPInstanceUID" in dataset
