# SPDX-License-Identifier: AGPL-3.0-or-later
"""dicom_events with whatever configuration: it is told which key is wrong, it never breaks, and no secret is shown."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from testing.standin import StandIn
from tests.brokers import wait_until

SECRET = "pa55Word"  # noqa: S105
# Every key that there is, with a value that is allowed.
VALID: dict[str, Any] = {
    "Events": {
        **dict.fromkeys(
            [
                *(f"{what}{level}" for what in ("New", "Stable", "Deleted") for level in ("Patient", "Study", "Series")),
                *("DeletedInstance", "StoredInstance", "UpdatedMetadata", "UpdatedAttachment", "JobSuccess"),
                *("JobFailure", "OrthancStarted", "OrthancStopped", "UpdatedModalities", "UpdatedPeers"),
            ],
            True,
        ),
        "StoredInstanceThrottleMs": 100,
        "StoredInstanceSkipOrigin": ["REST_API"],
        **{
            f"{each}PublishTags": ["Modality"]
            for each in ("StoredInstance", "StableSeries", "StableStudy", "StablePatient")
        },
    },
    "Broker": {"Type": "file", "Name": "own", "Events": ["dicom.study.*"], "Format": "plain",
               "FileConfig": {"Path": "events.jsonl", "MaxMegabytes": 1, "Keep": 2}},
    "Brokers": {
        "rabbit": {"Type": "rabbitmq", "Unroutable": "keep", "UnroutableGraceSeconds": 5, "RabbitConfig": {
            "URL": f"amqp://me:{SECRET}@127.0.0.1:1/", "MoreURLs": [f"amqps://me:{SECRET}@127.0.0.1:1/"], "Exchange": "x",
            "Passive": True, "CACertificate": "/x", "Certificate": "/x", "CertificateKey": "/x"}},
        "sns": {"Type": "sqs-sns", "SNSConfig": {
            "TopicArn": "arn:aws:sns:eu-west-1:123456789012:x", "EndpointURL": "http://127.0.0.1:1"}},
        "nats": {"Type": "nats", "NatsConfig": {
            "URL": f"nats://me:{SECRET}@127.0.0.1:1", "MoreURLs": [], "Stream": "X", "Prefix": "x.", "Passive": False,
            "CACertificate": "/x", "CredentialsFile": "/x"}},
        "kafka": {"Type": "kafka", "KafkaConfig": {
            "BootstrapServers": "127.0.0.1:1,[::1]:2", "Topic": "x", "Options": {"sasl.password": SECRET}}},
        "webhook": {"Type": "webhook", "WebhookConfig": {
            "URL": f"http://me:{SECRET}@127.0.0.1:1/", "Secret": SECRET, "Headers": {"Authorization": f"Bearer {SECRET}"},
            "Timeout": 1, "CACertificate": "/x", "Proxy": f"http://me:{SECRET}@127.0.0.1:1"}},
        "log": {"Type": "log"},
    },
    "Format": "structured",
    "Source": "/hospital/orthanc",
    "Outbox": {"MaxMegabytes": 1, "MaxAgeDays": 1, "WhenFull": "refuse", "KeepOrphanedDays": 1},
    "Reconcile": False,
    "Durability": "full",
    "StatePath": None,
}  # fmt: skip
FOLDERS = {"StatePath"}  # a text there makes a folder


def paths(section: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if before:
        yield before
    if isinstance(section, dict) and before[-1:] not in (("Options",), ("Headers",)):
        for key, value in section.items():
            yield from paths(value, (*before, key))


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=300)
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)
AWKWARD = st.text("/?#[]@:%&= \t\n\\\"'é0a", max_size=4)
URLS = st.builds(
    lambda scheme, before, after, tail: f"{scheme}://me:{before}{SECRET}{after}@127.0.0.1:1{tail}",
    st.sampled_from(["amqp", "amqps", "nats", "tls", "http", "https", "HTTP", "ftp"]),
    *(AWKWARD, AWKWARD, AWKWARD),
)
SHOWN = st.one_of(URLS, URLS.map(lambda url: [url]), URLS.map(lambda url: {"URL": url}))


@pytest.fixture(scope="module")
def package() -> Iterator[StandIn]:
    """The package, loaded once on a stand-in."""
    standin = StandIn()

    def look_up(name: str) -> Any:
        if name != "Modality":
            raise standin.module.OrthancException(27, "no such tag")
        return {"Group": 8, "Element": 0x60}

    standin.returns["LookupDictionary"] = look_up
    standin.returns["GetConfigurationPath"] = "/"
    with standin.installed():
        importlib.import_module("dicom_events")
        yield standin
    for name in [each for each in sys.modules if each.partition(".")[0] == "dicom_events"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outbox")


def load(package: StandIn, folder: Path, section: Any) -> Any:
    """The service as it is after loading with this section; what it logged is in `package.logs`."""
    package.logs.clear()
    package.registered.clear()
    package.configuration = {"DicomEvents": section, "IndexDirectory": str(folder)}
    service = importlib.import_module("dicom_events.service").Service()
    service.register()
    return service


def ask(package: StandIn, service: Any) -> tuple[int, Any]:
    answer = package.http("GET", "/dicom-events/status")
    if service._pipeline:
        service._pipeline.close()
    assert answer.status
    return answer.status, answer.json()


def test_every_key_can_be_given_and_no_secret_is_shown(package: StandIn, folder: Path) -> None:
    service = load(package, folder, VALID)
    assert [text for level, text in package.logs if level == "error"] == []
    status, answer = ask(package, service)
    assert status == 200, answer
    assert answer["Brokers"].keys() == {"own", *VALID["Brokers"]}
    assert SECRET not in str(package.logs) + json.dumps(answer)


@given(data=st.data())
def test_whatever_stands_at_a_key_is_taken_or_told_by_that_key_and_orthanc_runs(
    package: StandIn, folder: Path, data: st.DataObject
) -> None:
    path = data.draw(st.sampled_from([each for each in paths(VALID) if each[-1] not in FOLDERS]), "path")
    value = data.draw(ANYTHING | SHOWN, "value")
    section = copy.deepcopy(VALID)
    holder = section
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    check(package, folder, section, path)


@given(section=ANYTHING | SHOWN)
@example("amqp://me:pa55Word@host")
@example({"Broker": "amqp://me:pa55Word@host"})
@example({"Broker": {"Type": "webhook", "WebhookConfig": "pa55Word"}})
@example({"Broker": {"Type": "amqp://me:pa55Word@host"}})
@example({"Events": {"StoredInstancePublishTags": ["amqp://me:pa55Word@host"]}})
@example({"Brokers": {"a\nW1121 forged": {"Type": "nowhere"}}})
def test_whatever_stands_for_the_section_is_taken_or_told(package: StandIn, folder: Path, section: Any) -> None:
    check(package, folder, section, ())


def check(package: StandIn, folder: Path, section: Any, path: tuple[str, ...]) -> None:
    service = load(package, folder, section)
    status, answer = ask(package, service)
    errors = [text for level, text in package.logs if level == "error"]
    assert status in (200, 503)
    if status == 503:  # idle: one line, in the log and in the route
        assert errors == [answer["Message"]]
        told = errors
    else:  # a wrong broker is off, the others are not
        told = [each["LastError"] for each in answer["Brokers"].values() if each["State"] == "misconfigured"]
        assert len(told) == len(errors)
    says = ("allowed: ", " is not a known key (did you mean ", "two brokers")
    assert all(line.startswith("DicomEvents") and any(each in line for each in says) for line in told)
    assert all("\n" not in line for line in errors)
    if path and told:
        assert any(key in told[0] for key in path)
    assert SECRET not in str(package.logs) + json.dumps(answer)


def test_a_url_in_the_place_of_a_name_is_refused_and_not_shown(package: StandIn, folder: Path) -> None:
    url = f"amqp://me:{SECRET}@host/"
    for section in (
        {"Broker": {"Type": "log", "Name": url}},
        {"Brokers": {url: {"Type": "log"}, "fine": {"Type": "log"}}},
    ):
        check(package, folder, section, ())
        assert any("a value that is not shown here" in text for _, text in package.logs)


@given(url=URLS, header=st.text(max_size=5), kind=st.sampled_from(["rabbitmq", "nats", "webhook"]))
@example("amqp://me:pa/55Word@127.0.0.1:1/", "", "rabbitmq")
@example("amqp://me:pa55Word@127.0.0.1:1?=0", "", "rabbitmq")
@example("http://me:pa55Word@127.0.0.1:1/", "\r\nX: y", "webhook")
def test_no_error_of_a_broker_shows_a_secret_or_is_a_fault_of_ours(
    package: StandIn, tmp_path_factory: pytest.TempPathFactory, url: str, header: str, kind: str
) -> None:
    """Where the settings are fine, a publisher tries, and meets a port where nobody listens."""
    settings, named_brokers, kinds, brokers, publisher, outbox = (
        importlib.import_module(f"dicom_events.{name}")
        for name in ("settings", "named", "broker_settings", "brokers", "publisher", "outbox")
    )
    config: dict[str, Any] = {"URL": url}
    if kind == "webhook":
        config["Headers"] = {"Authorization": f"Bearer {header}{SECRET}"}
    broker = {"Type": kind, kinds.CONFIGS[kind][0]: config}
    (named,) = named_brokers.read_brokers(settings.Settings(broker=broker))
    if named.complaint:
        assert SECRET not in named.complaint
        return
    folder = tmp_path_factory.mktemp("publisher")
    box = outbox.Outbox(folder / "x.sqlite", durability="normal", most=10**9, oldest=0, refuse=False)
    box.begin([named])
    with box.transaction():
        box.add("id", "dicom.study.new", "key", "studies/key", "{}")
    said: list[str] = []

    def say(_level: str, text: str) -> None:
        said.append(text)

    made = brokers.maker(named, "/x", "structured", folder, say)
    running = publisher.Publisher(named, box, made, say, named_brokers.secrets_of(named))
    running.start()
    wait_until(lambda: said, what="the publisher to find nobody")
    status = running.status()
    running.stop()
    running._thread.join(10)
    box.close()
    assert SECRET not in str(said) + json.dumps(status)
    assert "Traceback" not in str(said)
    # Which parameters a URL may have, only pika knows.
    assert "is away" in said[0] or (kind == "rabbitmq" and "?" in url and "is off: RabbitConfig.URL" in said[0])
