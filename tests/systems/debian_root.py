# SPDX-License-Identifier: AGPL-3.0-or-later
"""Fresh Debian systems in folders, made by debootstrap, to try in what a newcomer is told to do. Needs root.

A system knows of this machine only what it needs to install packages: Debian's mirror, the certificates that this machine
trusts, and the index that its pip uses.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".orthancs/systems"
CERTIFICATES = Path("/usr/local/share/ca-certificates")
USER = "newcomer"
# What Debian's installer gives, and debootstrap's smallest system does not.
INSTALLED = ("ca-certificates", "dbus", "init", "iproute2", "sudo")
# Runs a folder's own systemd. A machine without systemd has no /run for it, and perhaps the old form of cgroups.
BOOT = """
mount -t tmpfs tmpfs /run
umount -l /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec systemd-nspawn --quiet --register=no --keep-unit --hostname=debian --boot -D "$0"
"""


class JourneyFailedError(RuntimeError):
    """Something that a newcomer is told to do does not work."""


def run(*command: str | Path) -> None:
    """Run a program that must succeed; its output is shown only if it does not."""
    done = subprocess.run(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise JourneyFailedError(f"{shlex.join(map(str, command))} failed:\n{done.stdout[-3000:]}")


def mirror() -> str:
    """Return the address of the Debian mirror in this machine's own apt sources."""
    command = ["apt-get", "indextargets", "--format", "$(SITE)"]
    sites = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    found = [site for site in sites if site.rstrip("/").endswith("/debian")]
    if not found:
        raise JourneyFailedError("no Debian mirror in apt's sources, or 'apt-get update' was never run")
    return found[0]


def make_system(suite: str, folder: Path, packages: tuple[str, ...] = INSTALLED) -> Path:
    """Make a fresh system of a Debian suite in a folder. The first of a suite takes a minute, the next a few seconds."""
    archive = CACHE / f"{suite}{'' if packages == INSTALLED else '-slim'}.tar"
    if not archive.exists():
        print(f"Making a fresh Debian {suite} by debootstrap ...", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            script = Path(f"/usr/share/debootstrap/scripts/{suite}")
            known = [] if script.exists() else [script.with_name("trixie")]  # a suite newer than this debootstrap
            system = Path(work) / "system"
            run("debootstrap", "--variant=minbase", f"--include={','.join(packages)}", suite, system, mirror(), *known)
            use_what_this_machine_uses(system)
            run("tar", "-C", system, "-cf", f"{work}/system.tar", ".")
            Path(work, "system.tar").rename(archive)
    folder.mkdir(parents=True, exist_ok=True)
    run("tar", "-C", folder, "-xpf", archive)
    return folder


def use_what_this_machine_uses(system: Path) -> None:
    """Let a system install packages where only certain certificates, or another index of Python packages, are accepted."""
    if CERTIFICATES.is_dir():
        shutil.copytree(CERTIFICATES, system / CERTIFICATES.relative_to("/"), dirs_exist_ok=True)
        run("chroot", system, "update-ca-certificates")
    (system / "etc/hostname").write_text("debian\n")
    (system / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 debian\n")
    settings = "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n"
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    index = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    (system / "etc/pip.conf").write_text(settings + (f"index-url = {index}\n" if index else ""))
    # apt asks a person; here nobody answers. A mirror that stands still (a snapshot) is good enough to test on.
    answers = 'APT::Get::Assume-Yes "true";\nAcquire::Check-Valid-Until "false";\n'
    (system / "etc/apt/apt.conf.d/90test").write_text(answers)


def add_user(system: Path) -> Path:
    """Add a user who may use sudo, as Debian's installer does; return the home."""
    run("chroot", system, "useradd", "--create-home", "--shell", "/bin/bash", USER)
    (system / "etc/sudoers.d").mkdir(exist_ok=True)
    (system / f"etc/sudoers.d/{USER}").write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    return system / "home" / USER


def clone_into(system: Path) -> None:
    """Give the user a clone of what is committed here."""
    home = system / "home" / USER
    run("git", "clone", "--quiet", "--no-hardlinks", ROOT, home / "orthanc-scripts")
    run("chroot", system, "chown", "-R", f"{USER}:{USER}", f"/home/{USER}")


def boot_and_run(system: Path, script: str, timeout: float) -> str:
    """Boot a system, run a script as its user with the output shown here, and shut it down; return the output.

    The system has this machine's network: 8042 and 4242 must be free here.
    """
    journey = system / "journey"
    journey.mkdir(exist_ok=True)
    for name in ("status", "log"):
        (journey / name).unlink(missing_ok=True)
    (journey / "script").write_text(f"set -eu -o pipefail\n{script}\n")
    unit = system / "etc/systemd/system/journey.service"
    unit.write_text(
        "[Service]\nType=oneshot\n"
        f"User={USER}\nWorkingDirectory=/home/{USER}\nEnvironment=LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive\n"
        "ExecStart=/bin/bash /journey/script\nStandardOutput=append:/journey/log\nStandardError=append:/journey/log\n"
        "ExecStopPost=+/bin/sh -c 'echo $EXIT_STATUS >/journey/status; systemctl poweroff --no-block'\n"
        "TimeoutStartSec=infinity\n[Install]\nWantedBy=multi-user.target\n"
    )
    run("chroot", system, "systemctl", "enable", "--quiet", "journey.service")
    console = (journey / "console").open("wb")
    command = ["unshare", "--mount", "sh", "-c", BOOT, str(system)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT)
    log = ShownLog(journey / "log")
    end = time.monotonic() + timeout
    try:
        while process.poll() is None:
            log.show()
            if time.monotonic() > end:
                raise JourneyFailedError(f"not finished within {timeout:.0f} s")
            time.sleep(0.5)
    finally:
        if process.poll() is None:
            process.terminate()  # nspawn shuts the system down
        process.wait(60)
        console.close()
    log.show()
    status = (journey / "status").read_text().strip() if (journey / "status").exists() else "unknown"
    if status != "0":
        raise JourneyFailedError(f"ended with status {status}; the console of the system: {journey}/console")
    return log.text


class ShownLog:
    """A file that another program writes, printed as it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = ""
        self._offset = 0

    def show(self) -> None:
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._offset)
                more = file.read()
            self._offset += len(more)
            shown = more.decode(errors="replace")
            self.text += shown
            print(shown, end="", flush=True)


def needs_root(program: str) -> None:
    if os.geteuid():
        sys.exit(f"{program}: only root can make and boot systems in folders: use sudo")
