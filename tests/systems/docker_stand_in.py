# SPDX-License-Identifier: AGPL-3.0-or-later
"""A small `docker` for a machine without an engine: buildah without privileges of a kernel module, and a network of its own.

It knows what README.md and docs/ use: `build`, `run`, `logs`, `compose up`; and `rm`, `exec`, `wait` for the tests.
Each container has an address of its own on a bridge, so that a published port is asked from elsewhere, as with Docker.
All but `build` must run where `network()` was called: in a network namespace and a mount namespace of the test's own.
`STAND_IN` is the folder of its images, containers and volumes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

FOLDER = Path(os.environ.get("STAND_IN", "/nonexistent"))
HOSTS, VOLUMES, CONTAINERS = FOLDER / "hosts", FOLDER / "volumes", FOLDER / "containers"
BRIDGE = "10.88.0.1"


def buildah(*arguments: str | Path) -> str:
    """Run buildah on the images of this folder; return what it prints."""
    done = subprocess.run([*buildah_command(), *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"buildah {shlex.join(map(str, arguments))} ended with {done.returncode}\n{done.stdout}")
    return done.stdout.strip()


def buildah_command() -> list[str]:
    return ["buildah", "--root", f"{FOLDER}/storage", "--runroot", f"{FOLDER}/run", "--storage-driver", "overlay"]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def network() -> None:
    """Make the bridge, in the namespaces of this process."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    ip("link", "set", "lo", "up")
    ip("link", "add", "bridge", "type", "bridge")
    ip("address", "add", f"{BRIDGE}/24", "dev", "bridge")
    ip("link", "set", "bridge", "up")
    for folder in (VOLUMES, CONTAINERS):
        folder.mkdir(parents=True, exist_ok=True)
    HOSTS.write_text("127.0.0.1 localhost\n")


def settings_of(image: str) -> dict[str, Any]:
    """Return entry point, command, user, health check, … of an image."""
    found = json.loads(buildah("inspect", "--type", "image", image))
    return dict(found["Docker"]["config"])


def build(options: argparse.Namespace) -> None:
    arguments = [word for each in options.build_arg for word in ("--build-arg", each)]
    command = ["bud", "--isolation", "chroot", "--format", "docker", "--pull-never", "--layers", "--tag", options.tag]
    subprocess.run([*buildah_command(), *command, *arguments, str(options.context)], check=True)


def run(options: argparse.Namespace) -> int:
    """Start a container; without `--detach`, wait until it ends."""
    image = settings_of(options.image)
    name = options.name or f"once{os.getpid()}"
    buildah("from", "--pull-never", "--name", name, options.image)
    for place in image.get("Volumes") or {}:
        buildah("config", "--volume", f"{place}-", name)  # or buildah's own volume may cover the one that is asked for
    entry = shlex.split(options.entrypoint) if options.entrypoint else image.get("Entrypoint") or []
    command = [*entry, *(options.command or ([] if options.entrypoint else image.get("Cmd") or []))]
    arguments = ["run", "--isolation", "chroot", "--no-hosts", "--volume", f"{HOSTS}:/etc/hosts"]
    for volume in options.volume:
        arguments += ["--volume", mounted(volume, name)]
    arguments += [word for each in options.env for word in ("--env", each)]
    arguments += ["--workingdir", options.workdir] if options.workdir else []
    publishers = connect(name, options.publish)
    inside = ["ip", "netns", "exec", name, *buildah_command(), *arguments, name, "--", *command]
    log = None if not options.detach else (CONTAINERS / f"{name}.log").open("wb")
    process = subprocess.Popen(
        inside, stdin=subprocess.DEVNULL, stdout=log, stderr=log and subprocess.STDOUT, start_new_session=options.detach
    )
    (CONTAINERS / f"{name}.json").write_text(json.dumps(publishers))
    return 0 if options.detach else process.wait()


def mounted(volume: str, container: str) -> str:
    """Return a volume as buildah takes it. A new named one begins with what the image has at its place, owner included."""
    source, place, *how = volume.split(":")
    if "/" not in source:
        folder = VOLUMES / source
        if not folder.exists():
            there = Path(buildah("mount", container)) / place.lstrip("/")
            if there.exists():
                subprocess.run(["cp", "-a", str(there), str(folder)], check=True)
            else:
                folder.mkdir()
            buildah("umount", container)
        source = str(folder)
    if not Path(source).exists():
        raise SystemExit(f"{source} does not exist: Docker would make an empty folder there")
    return ":".join([os.path.abspath(source), place, *how])  # noqa: PTH100 - as it is written, links and all


def connect(name: str, publish: list[str]) -> list[int]:
    """Give a container an address on the bridge, a name for the others, and its published ports; return who publishes them."""
    address = f"10.88.0.{2 + HOSTS.read_text().count(chr(10))}"
    ip("netns", "add", name)
    ip("link", "add", f"v{address.rpartition('.')[2]}", "type", "veth", "peer", "name", "eth0", "netns", name)
    ip("link", "set", f"v{address.rpartition('.')[2]}", "master", "bridge", "up")
    for command in (
        ["address", "add", f"{address}/24", "dev", "eth0"],
        ["link", "set", "eth0", "up"],
        ["link", "set", "lo", "up"],
    ):
        ip("-n", name, *command)
    with HOSTS.open("a") as hosts:
        hosts.write(f"{address} {name}\n")
    publishers = []
    for port in publish:
        outside, _, inside = port.rpartition(":")
        command = [sys.executable, "-m", "tests.systems.docker_stand_in", "publish", outside, f"{address}:{inside}"]
        nowhere = subprocess.DEVNULL  # a pipe that it inherits would keep who reads it waiting
        process = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
        publishers.append(process.pid)
        wait_for_port(("127.0.0.1", int(outside.rpartition(":")[2])))
    return publishers


def wait_for_port(address: tuple[str, int]) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(address, 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit(f"{address} is not published")


def publish(options: argparse.Namespace) -> None:
    """Pass connections to a port of this machine on to a container, for as long as the namespaces live."""
    host, _, port = options.outside.rpartition(":")
    target = options.inside.split(":")
    listener = socket.create_server((host or "0.0.0.0", int(port)))  # noqa: S104 - as Docker does
    while True:
        client, _ = listener.accept()
        try:
            server = socket.create_connection((target[0], int(target[1])), 10)
        except OSError:
            client.close()
            continue
        for pair in ((client, server), (server, client)):
            threading.Thread(target=pass_on, args=pair, daemon=True).start()


def pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        for each in (source, target):
            each.close()


def logs(options: argparse.Namespace) -> None:
    sys.stdout.buffer.write((CONTAINERS / f"{options.name}.log").read_bytes())


def execute(options: argparse.Namespace) -> int:
    command = [
        "ip",
        "netns",
        "exec",
        options.name,
        *buildah_command(),
        "run",
        "--isolation",
        "chroot",
        options.name,
        "--",
    ]
    return subprocess.run([*command, *options.command], check=False).returncode


def remove(options: argparse.Namespace) -> None:
    """End a container's programs, and forget it; volumes are kept."""
    state = CONTAINERS / f"{options.name}.json"
    for pid in json.loads(state.read_text()):
        os.kill(pid, signal.SIGKILL)
    state.unlink()
    for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 5)):
        for pid in pids_of(options.name):
            if number == signal.SIGKILL or not is_engine(pid):
                os.kill(pid, number)
        end = time.monotonic() + seconds
        while (left := pids_of(options.name)) and time.monotonic() < end:
            time.sleep(0.1)
        if not left:
            break
    buildah("rm", options.name)
    HOSTS.write_text(re.sub(rf" {re.escape(options.name)}$", " removed", HOSTS.read_text(), flags=re.M))
    ip("netns", "delete", options.name)


def is_engine(pid: int) -> bool:
    """Whether a process is buildah's own, which ends when what it runs has ended."""
    try:
        return b"buildah" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return False


def pids_of(name: str) -> list[int]:
    found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False).stdout
    return [int(each) for each in found.split()]


def compose_up(options: argparse.Namespace) -> None:
    """Start all services of a compose file, those that others depend on first."""
    text = Path(options.file).read_text()
    text = re.sub(r"\$\{(\w+):\?([^}]*)\}", lambda found: os.environ[found[1]], text)
    services = YAML(typ="safe").load(text)["services"]
    for name in sorted(services, key=lambda each: depth(services, each)):
        service = services[name]
        if "build" in service and options.build:
            build(argparse.Namespace(build_arg=[], tag=f"compose-{name}", context=service["build"]))
        environment = service.get("environment", {})
        run(
            argparse.Namespace(
                image=service.get("image") or f"compose-{name}",
                name=name,
                entrypoint=shlex.join(service.get("entrypoint", [])),
                command=service.get("command"),
                volume=service.get("volumes", []),
                env=[f"{key}={value}" for key, value in environment.items()],
                publish=service.get("ports", []),
                workdir=None,
                detach=True,
            )
        )


def depth(services: dict[str, Any], name: str) -> int:
    return max((1 + depth(services, each) for each in services[name].get("depends_on", [])), default=0)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="docker", description=__doc__, allow_abbrev=False)
    commands = top.add_subparsers(required=True)

    def add(name: str, function: Any, *positional: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, allow_abbrev=False)
        made.set_defaults(function=function)
        for each in positional:
            made.add_argument(each, nargs=argparse.REMAINDER if each == "command" else None)
        return made

    one = add("run", run, "image", "command")
    one.add_argument("-d", "--detach", action="store_true")
    one.add_argument("--rm", action="store_true")
    for option in ("--name", "--restart", "--entrypoint"):
        one.add_argument(option)
    one.add_argument("-w", "--workdir")
    for short, long in (("-p", "--publish"), ("-e", "--env"), ("-v", "--volume")):
        one.add_argument(short, long, action="append", default=[])
    one = add("build", build, "context")
    one.add_argument("-t", "--tag", required=True)
    one.add_argument("--build-arg", action="append", default=[])
    add("logs", logs, "name")
    add("exec", execute, "name", "command")
    add("rm", remove, "name").add_argument("-f", action="store_true")
    add("publish", publish, "outside", "inside")
    one = add("compose", compose_up)
    one.add_argument("-f", "--file", default="docker-compose.yml")
    one.add_argument("up", choices=["up"])
    one.add_argument("--build", action="store_true")
    one.add_argument("-d", "--detach", action="store_true")
    return top


def main() -> int:
    options = parser().parse_args()
    return options.function(options) or 0


if __name__ == "__main__":
    sys.exit(main())
