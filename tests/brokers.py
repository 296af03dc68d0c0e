# SPDX-License-Identifier: AGPL-3.0-or-later
"""Real brokers to test on, from Debian, each a process of its own in a folder and on ports of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pika  # type: ignore[import-untyped]

from testing.server import Process, reserve_port, start_process
from testing.waiting import wait_until as wait_until

STARTED_WITHIN = 180.0  # seconds; RabbitMQ takes 4 on an idle machine


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def stop_process(process: Process | None) -> None:
    """End a process and all that it started, at once."""
    if process and process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class RabbitServer:
    """Debian's rabbitmq-server, without its service: ended at once by `stop()`, with what it has on disk after `start()`."""

    def __init__(self, folder: Path, certificate: Path | None = None) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._reserved = [reserve_port() for _ in range(4)]
        self.port, self._distribution, self._epmd_port, self.tls_port = (
            each.getsockname()[1] for each in self._reserved
        )
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self._process: Process | None = None
        self._epmd: Process | None = None
        settings = [f"listeners.tcp.1 = 127.0.0.1:{self.port}", "loopback_users = none"]
        if certificate:  # clients have to show it too
            settings += [f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}", "ssl_options.verify = verify_peer"]
            settings += [f"ssl_options.{each}file = {certificate}" for each in ("cacert", "cert", "key")]
            settings.append("ssl_options.fail_if_no_peer_cert = true")
        self._settings = settings
        self._configure()
        (folder / "enabled_plugins").write_text("[].\n")

    def _configure(self, *more: str) -> None:
        (self.folder / "rabbitmq.conf").write_text("\n".join([*self._settings, *more, ""]))

    def restart_with(self, *settings: str) -> None:
        """Stop it, and start it with these lines in its configuration, in place of those of the call before."""
        self.stop()
        self._configure(*settings)
        self.start()

    def start(self) -> RabbitServer:
        environment = {
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none",
        }
        epmd = shutil.which("epmd")
        assert epmd, "apt-get install rabbitmq-server"
        if self._epmd is None or self._epmd.poll() is not None:
            # Its own, or Erlang would leave one behind that runs for ever.
            self._epmd = start_process(
                [epmd, "-port", str(self._epmd_port)], log=self.folder / "epmd.log", environment=environment
            )
            wait_until(lambda: listens(self._epmd_port), what="epmd")
        program = "/usr/lib/rabbitmq/bin/rabbitmq-server"
        self._process = start_process([program], log=self.folder / "out.log", environment=environment)
        wait_until(self._is_ready, STARTED_WITHIN, f"RabbitMQ, see {self.folder}/out.log")
        return self

    def _is_ready(self) -> bool:
        assert self._process
        assert self._process.poll() is None, (self.folder / "out.log").read_text()[-3000:]
        if not listens(self.port):
            return False
        try:
            pika.BlockingConnection(pika.URLParameters(self.url)).close()
        except pika.exceptions.AMQPError:
            return False
        return True

    def stop(self) -> None:
        """End it as a power cut would."""
        stop_process(self._process)

    def pause(self) -> None:
        """It hangs: connections stay open and nothing answers."""
        assert self._process
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process
        os.killpg(self._process.pid, signal.SIGCONT)

    def control(self, *arguments: str) -> str:
        """Run a command in the server, as `set_vm_memory_high_watermark 0` (all that publishes is blocked)."""
        command = ["/usr/lib/rabbitmq/bin/rabbitmqctl", "-n", f"test{self.port}@localhost", *arguments]
        environment = {**os.environ, "HOME": str(self.folder), "ERL_EPMD_PORT": str(self._epmd_port)}
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    def close(self) -> None:
        stop_process(self._process)
        stop_process(self._epmd)
        for each in self._reserved:
            each.close()


class NatsServer:
    """Debian's nats-server with JetStream."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self._options = folder, options
        folder.mkdir(parents=True)
        self._reserved = reserve_port()
        self.port = self._reserved.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        self._process: Process | None = None

    def start(self) -> NatsServer:
        program = shutil.which("nats-server") or "/usr/sbin/nats-server"
        command = [
            program,
            "-a",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-js",
            "-sd",
            str(self.folder / "data"),
            *self._options,
        ]
        self._process = start_process(command, log=self.folder / "out.log")
        wait_until(lambda: listens(self.port), STARTED_WITHIN, f"NATS, see {self.folder}/out.log")
        return self

    def stop(self) -> None:
        stop_process(self._process)

    def close(self) -> None:
        self.stop()
        self._reserved.close()
