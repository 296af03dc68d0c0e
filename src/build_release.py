# SPDX-License-Identifier: AGPL-3.0-or-later
"""Makes what people download of a version: `make release`, or python3 src/build_release.py FOLDER.

    orthanc-scripts-VERSION.zip   the scripts, combine.py, docs and licence
    all.py                        all scripts in one, made by combine.py; the forwarders send nothing without their section
    SHA256SUMS                    `sha256sum --check SHA256SUMS`

The same sources give the same bytes. It tags nothing and sends nothing anywhere.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from build import Builder
from build_sources import PACKAGES

TOP = Path(__file__).resolve().parent.parent
NOT_COMBINED = ("combine.py", "event_dispatcher.py")  # a program, and a library for scripts of a user's own
NEEDS_SECTION = "\nNEEDS_SECTION = False\n"  # a line of the forwarders (src/forwarding/settings.py)
PAGES = ("README.md", "CHANGELOG.md", "LICENSE", "requirements.txt")


def version() -> str:
    """Return the version of the collection."""
    [found] = re.findall(r'^__version__ = "(.+)"$', (TOP / "src/common/version.py").read_text(), re.M)
    return str(found)


def release(folder: Path) -> None:
    """Write the files of a release into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    built = sorted(Builder(TOP / "src").built())
    scripts = [path for path in built if path.parent == TOP and path.name not in NOT_COMBINED]
    packages = [TOP / name for name in PACKAGES]
    with tempfile.TemporaryDirectory() as careful:
        parts = [_with_section_only(path, Path(careful)) for path in scripts]
        combine = [sys.executable, str(TOP / "combine.py"), *map(str, [*parts, *packages])]
        subprocess.run([*combine, "-o", str(folder / "all.py")], check=True)
    name = f"orthanc-scripts-{version()}"
    pages = [
        *(TOP / page for page in PAGES),
        *sorted((TOP / "docs").glob("*.md")),
        *sorted((TOP / "docs").glob("*.json")),
        *sorted((TOP / "docs/images").iterdir()),
    ]
    with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in [*built, *pages]:
            entry = zipfile.ZipInfo(f"{name}/{path.relative_to(TOP).as_posix()}")  # dated 1980, whenever it is made
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    files = [folder / "all.py", folder / f"{name}.zip"]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(sums))


def _with_section_only(script: Path, folder: Path) -> Path:
    """Return a script, or, of one that sends everything where there is no section, a copy that sends nothing then."""
    text = script.read_text()
    if NEEDS_SECTION not in text:
        return script
    copy = folder / script.name
    copy.write_text(text.replace(NEEDS_SECTION, NEEDS_SECTION.replace("False", "True")))
    return copy


def main(arguments: list[str]) -> int:
    """Run as a program; return the exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    release(Path(arguments[0]))
    print(f"{arguments[0]}: version {version()}")
    if f"## [{version()}]" not in (TOP / "CHANGELOG.md").read_text():
        print(f"CHANGELOG.md has no section [{version()}] yet: see CONTRIBUTING.md", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
