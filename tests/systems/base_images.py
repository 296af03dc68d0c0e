# SPDX-License-Identifier: AGPL-3.0-or-later
"""The two images that people use, made of Debian's packages: where each has its plugin, its Python, its user and its start.

They are made after the public recipes, from which only facts are taken: of jodogne/orthanc-python (Debian trixie: the plugin in
/usr/local/share/orthanc/plugins, python3.13 without python3 and pip, all as root) and of orthancteam/orthanc (Ubuntu 26.04:
plugins-available, python3 3.14 with pip, a user, a start that makes /tmp/orthanc.json). Ubuntu's packages are Debian forky's
here: Orthanc and Python are of the same versions.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from tests.systems import debian_root
from tests.systems.docker_stand_in import buildah

JODOGNE, ORTHANCTEAM = "docker.io/jodogne/orthanc-python:1.13.0", "docker.io/orthancteam/orthanc:26.8.1"
SLIM = ("ca-certificates",)
# What Orthanc 1.13.0 writes by --advanced-config has these too: a second file with one of them stops Orthanc.
ADVANCED = {"UserMetadata": {}, "UserContentType": {}, "HttpCompressionEnabled": False}
START = Path(__file__).with_name("orthancteam_start.py")


def make_images() -> None:
    """Make both, unless they are there."""
    there = buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()
    for name, suite, fill, settings in (
        (JODOGNE, "trixie", fill_jodogne, {"entrypoint": '["Orthanc"]', "cmd": "/etc/orthanc/"}),
        (ORTHANCTEAM, "forky", fill_orthancteam, {"entrypoint": '["/start.py"]', "cmd": "/tmp/orthanc.json"}),  # noqa: S108
    ):
        if name in there:
            continue
        container = buildah("from", "scratch")
        system = Path(buildah("mount", container))
        debian_root.make_system(suite, system, SLIM)
        fill(system)
        buildah("config", *(f"--{key}={value}" for key, value in settings.items()), container)
        if name == JODOGNE:
            buildah("config", "--volume=/var/lib/orthanc/db", container)
        buildah("commit", "--quiet", "--format", "docker", container, name)
        buildah("rm", container)


def chroot(system: Path, *command: str) -> str:
    shutil.copy("/etc/resolv.conf", system / "etc/resolv.conf")
    debian_root.run("mount", "--bind", "/proc", system / "proc")
    try:
        done = subprocess.run(
            ["chroot", str(system), "env", "DEBIAN_FRONTEND=noninteractive", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    finally:
        debian_root.run("umount", system / "proc")
    if done.returncode:
        raise debian_root.JourneyFailedError(f"{command} in {system}: {done.stdout[-2000:]}")
    return done.stdout


def install(system: Path, *packages: str) -> None:
    chroot(system, "apt-get", "-qq", "update")
    chroot(system, "apt-get", "-qq", "install", "--no-install-recommends", *packages)


def generate_locale(system: Path) -> None:
    """Orthanc's locale, without which it writes an error when it first compares texts."""
    (system / "etc/locale.gen").write_text("en_US.UTF-8 UTF-8\n")
    chroot(system, "locale-gen")


def unpack_orthanc(system: Path, program: str, plugins: str) -> None:
    """Put Orthanc and its Python plugin where an image has them, without the packages: only the libraries that they need."""
    names = ("orthanc", "orthanc-python")
    chroot(system, "apt-get", "-qq", "update")
    depends = chroot(system, "apt-cache", "depends", "--no-recommends", "--no-suggests", *names)
    libraries = sorted(set(re.findall(r"^ +Depends: (lib[a-z0-9.+-]+|dcmtk-data)$", depends, re.M)))
    chroot(system, "apt-get", "-qq", "install", "--no-install-recommends", *libraries)
    chroot(system, "sh", "-c", f"cd /tmp && apt-get -qq download {' '.join(names)}")
    unpacked = system / "tmp/unpacked"
    for archive in (system / "tmp").glob("*.deb"):
        debian_root.run("dpkg-deb", "-x", archive, unpacked)
        archive.unlink()
    for source, place in (
        (unpacked / "usr/sbin/Orthanc", program),
        (next(unpacked.rglob("libOrthancPython.so")), plugins),
    ):
        target = system / place.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    shutil.rmtree(unpacked)
    (system / "var/lib/orthanc/db").mkdir(parents=True, exist_ok=True)
    (system / "etc/orthanc").mkdir(exist_ok=True)


def fill_jodogne(system: Path) -> None:
    install(system, "python3.13", "libpython3.13", "wget", "locales")
    generate_locale(system)
    unpack_orthanc(system, "/usr/local/sbin/Orthanc", "/usr/local/share/orthanc/plugins/libOrthancPython.so")
    settings = {
        "Name": "Orthanc inside Docker",
        "IndexDirectory": "/var/lib/orthanc/db",
        "StorageDirectory": "/var/lib/orthanc/db",
        "Plugins": ["/usr/share/orthanc/plugins", "/usr/local/share/orthanc/plugins"],
        "RemoteAccessAllowed": True,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"orthanc": "orthanc"},
    }
    (system / "etc/orthanc/orthanc.json").write_text(json.dumps(settings, indent=2))
    (system / "etc/orthanc/advanced.json").write_text(json.dumps(ADVANCED, indent=2))
    for absent in ("usr/bin/python3", "usr/bin/pip3"):
        if (system / absent).exists():
            raise debian_root.JourneyFailedError(f"the image of the recipe has no {absent}")


def fill_orthancteam(system: Path) -> None:
    install(system, "python3", "python3-pip", "tzdata", "locales")
    generate_locale(system)
    available = system / "usr/share/orthanc/plugins-available"
    unpack_orthanc(system, "/usr/local/bin/Orthanc", "/usr/share/orthanc/plugins-available/libOrthancPython.so")
    chroot(system, "groupadd", "--system", "--gid=999", "orthanc")
    user = ["--system", "--gid=orthanc", "--uid=999", "--home-dir=/var/lib/orthanc", "--shell=/bin/false", "orthanc"]
    chroot(system, "useradd", *user)
    (system / "var/lib/orthanc/db").rmdir()
    (available.parent / "plugins").mkdir()
    places = ["/var/lib/orthanc", "/usr/share/orthanc/plugins", "/usr/share/orthanc/plugins-available"]
    chroot(system, "chown", "-R", "orthanc:orthanc", *places)
    shutil.copy(START, system / "start.py")
    (system / "start.py").chmod(0o755)
