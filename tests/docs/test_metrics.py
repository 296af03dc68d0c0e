# SPDX-License-Identifier: AGPL-3.0-or-later
"""docs/metrics.md and examples/monitoring: each name is what Orthanc answers, and a real Prometheus gets it and rings."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from testing.processes import start_process
from testing.pytest_plugin import StartOrthanc
from testing.server import OrthancServer, reserve_port
from testing.waiting import wait_until
from tests.brokers import stop_process
from tests.every_script.test_scripts_status import DISPATCHER, SCRIPTS
from tests.scripts import combine_scripts

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "examples/monitoring"
FORWARDERS = ("auto_forward_modality", "auto_forward_peer", "auto_forward_dicomweb")
NAMES = sorted(script.partition("/")[0].removesuffix(".py") for script in SCRIPTS if script != DISPATCHER)
NAMES = [*NAMES, "event_dispatcher"]


def documented() -> set[str]:
    """Return each metric that the tables of the page name."""
    found: set[str] = set()
    for cell in re.findall(r"^\| (`[^|]*`) \|", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE):
        owner = ""
        for name in re.findall(r"`(\w+)`", cell):
            if name.startswith("SCRIPT"):
                found.update(name.replace("SCRIPT", script) for script in NAMES)
                continue
            owner = next((script for script in NAMES if name.startswith(f"{script}_")), owner)
            whole = name if name.startswith(owner) else f"{owner}{name}"
            for script in FORWARDERS if owner == FORWARDERS[0] else (owner,):
                found.add(whole.replace(owner, script, 1))
    return found


def metrics_of(server: OrthancServer) -> dict[str, float]:
    """Return the metrics of scripts: Orthanc's own begin with its name."""
    lines = server.request("GET", "/tools/metrics-prometheus").text.splitlines()
    values = (line.split() for line in lines if line and not line.startswith(("orthanc_", "#")))
    return {name: float(value) for name, value, *_ in values}


def program(name: str) -> str:
    """Return the path of a program of Debian's package prometheus, which testing/install unpacks."""
    return shutil.which(name) or str(ROOT / "build/prometheus/usr/bin" / name)


def names_in(text: str) -> set[str]:
    """Return the names of metrics of ours in expressions; of a regular expression those that it fits."""
    patterns = re.findall(r'__name__=~"([^"]+)"', text)
    words = re.findall(rf"(?:{'|'.join(NAMES)})_\w+", re.sub(r'__name__=~"[^"]+"', "", text))
    for pattern in patterns:
        fits = {name for name in documented() if re.fullmatch(pattern, name)}
        assert fits, f"{pattern} fits no metric"
        words += fits
    return set(words)


@pytest.fixture(scope="module")
def everything(start_orthanc_for_module: StartOrthanc, tmp_path_factory: pytest.TempPathFactory) -> OrthancServer:
    """An Orthanc with all scripts in one file, and one of a user's own that handles events."""
    folder = tmp_path_factory.mktemp("combined")
    (folder / "mine.py").write_text(DISPATCHER)
    shutil.copy(ROOT / "event_dispatcher.py", folder)
    scripts = [ROOT / script.removesuffix("/__init__.py") for script in SCRIPTS if script != DISPATCHER]
    target = folder / "all.py"
    combine_scripts(*scripts, folder / "mine.py", to=target)
    configuration: dict[str, Any] = {}
    for section in SCRIPTS.values():
        configuration |= section
    return start_orthanc_for_module(target, configuration)


@pytest.fixture(scope="module")
def refused(start_orthanc_for_module: StartOrthanc) -> OrthancServer:
    """An Orthanc whose one script refuses its configuration."""
    return start_orthanc_for_module(ROOT / "auto_retries.py", {"AutoRetries": {"Retri": {}}}, aet="REFUSED")


def test_the_page_names_exactly_what_orthanc_answers(everything: OrthancServer) -> None:
    everything.wait_until(
        lambda: documented() <= metrics_of(everything).keys(), timeout=15, what="all that is documented"
    )
    found = metrics_of(everything)
    assert set(found) == documented()
    assert {name: value for name, value in found.items() if name.endswith("_idle") and value} == {}
    assert 0 < found["purge_old_studies_disk_used_percent"] <= 100


def test_a_script_that_refuses_its_configuration_says_that_it_is_idle_and_nothing_else(refused: OrthancServer) -> None:
    refused.wait_until(lambda: metrics_of(refused), timeout=15, what="report")
    refused.wait_until(
        lambda: metrics_of(refused) == {"auto_retries_idle": 1, "auto_retries_unhealthy": 1}, what="say so"
    )


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml"), ("check", "config", "prometheus.yml")],
    ids=lambda arguments: "-".join(arguments[:2]),
)
def test_promtool_finds_nothing_wrong(arguments: tuple[str, ...], tmp_path: Path) -> None:
    for path in MONITORING.iterdir():
        shutil.copy(path, tmp_path)
    (tmp_path / "orthanc-password").write_text("secret")
    done = subprocess.run([program("promtool"), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_test_that_expects_it() -> None:
    alerts = re.findall(r"- alert: (\w+)", (MONITORING / "alerts.yml").read_text())
    tests = (MONITORING / "alerts_test.yml").read_text()
    expected = set(re.findall(r"alertname: (\w+)\n +exp_alerts:", tests))
    assert set(alerts) == expected
    assert len(alerts) == len(expected) >= 10


def test_alerts_and_dashboard_use_documented_metrics_alone() -> None:
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    shown = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", []))
    for text in (shown, (MONITORING / "alerts.yml").read_text(), (MONITORING / "alerts_test.yml").read_text()):
        used = names_in(text) - {"event_dispatcher_"}
        assert len(used) > 10
        assert used <= documented(), used - documented()


@pytest.fixture
def prometheus(everything: OrthancServer, refused: OrthancServer, tmp_path: Path) -> Iterator[str]:
    """The address of a Prometheus with the example's configuration, which looks each second at both Orthancs."""
    config = (MONITORING / "prometheus.yml").read_text()
    config = re.sub(r"_interval: 15s", "_interval: 1s", config)
    targets = ", ".join(f'"{each.url.removeprefix("http://")}"' for each in (everything, refused))
    config = config.replace('"orthanc.example:8042"', targets)
    assert targets in config
    (tmp_path / "prometheus.yml").write_text(config)
    (tmp_path / "orthanc-password").write_text("secret")
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    with reserve_port() as port:
        address = f"127.0.0.1:{port.getsockname()[1]}"
        options = [f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
        command = [program("prometheus"), *options, f"--web.listen-address={address}"]
        process = start_process(command, log=tmp_path / "prometheus.log")
        yield f"http://{address}/api/v1"
        stop_process(process)


def test_a_real_prometheus_gets_the_metrics_and_the_alert_of_an_idle_script_rings(
    prometheus: str, everything: OrthancServer, refused: OrthancServer
) -> None:
    def ask(path: str, **query: str) -> Any:
        try:
            return requests.get(prometheus + path, params=query, timeout=5).json()["data"]
        except (requests.RequestException, KeyError, ValueError):
            return None

    def alerts() -> list[tuple[str, str, str]]:
        found = (ask("/alerts") or {}).get("alerts", [])
        return [(each["labels"]["alertname"], each["labels"].get("script", ""), each["state"]) for each in found]

    idle = ("OrthancScriptIdle", "auto_retries", "pending")  # it rings after five minutes
    wait_until(lambda: idle in alerts(), 20, "the alert")
    assert {each for each in alerts() if each[0] == "OrthancScriptIdle"} == {idle}
    assert "OrthancDoesNotAnswer" not in {each[0] for each in alerts()}
    instance = everything.url.removeprefix("http://")
    query = f'{{instance="{instance}", __name__!~"orthanc_.*|up|scrape_.*|ALERTS.*"}}'

    def got() -> set[str]:
        return {each["metric"]["__name__"] for each in (ask("/query", query=query) or {}).get("result", [])}

    wait_until(lambda: got() == documented(), 20, "all that is documented")
