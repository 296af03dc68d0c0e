# SPDX-License-Identifier: AGPL-3.0-or-later
"""What an unset environment variable leaves, an empty text, is an error that asks for the variable; nothing goes unsigned."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

Source = Callable[[str], ModuleType]
OfBroker = Callable[[dict[str, Any]], str]
Error = Callable[[str, dict[str, Any]], str]
KEY = "k" * 32
ASKS = "is empty (is its environment variable set?), allowed: "


@pytest.fixture
def of_broker(source: Source) -> Callable[[dict[str, Any]], str]:
    """Return what is wrong with a broker."""
    named, settings, common = map(source, ("dicom_events.named", "dicom_events.settings", "common.settings"))

    def complaint(content: dict[str, Any]) -> str:
        section = common.read_settings(settings.Settings, "DicomEvents", {"DicomEvents": {"Broker": content}})
        return str(named.read_brokers(section)[0].complaint)

    return complaint


def webhook(**config: Any) -> dict[str, Any]:
    return {"Type": "webhook", "WebhookConfig": {"URL": "https://ris.example/events", **config}}


def test_a_webhook_with_an_empty_secret_is_off_and_signs_nothing_in_silence(of_broker: OfBroker) -> None:
    assert of_broker(webhook(Secret="")) == (
        f"DicomEvents.Broker.WebhookConfig.Secret {ASKS}a text; to give none, leave the key out"
    )
    assert of_broker(webhook()) == ""
    assert of_broker(webhook(Secret=KEY)) == ""


@pytest.mark.parametrize("value", ["", "Bearer "])
def test_an_empty_header_is_named(of_broker: OfBroker, value: str) -> None:
    said = of_broker(webhook(Headers={"Authorization": value, "X-Other": "hidden"}))
    assert said == (
        "DicomEvents.Broker.WebhookConfig.Headers: found a value that is not shown here, allowed: texts that are not empty "
        "and don't end with a space (Authorization: is the environment variable set?)"
    )


@pytest.mark.parametrize(
    "content",
    [
        {"Type": "rabbitmq", "RabbitConfig": {"URL": "amqp://orthanc:@rabbit/"}},
        {"Type": "rabbitmq", "RabbitConfig": {"URL": "amqp://x:y@rabbit/", "MoreURLs": ["amqp://:pw@other/"]}},
        {"Type": "nats", "NatsConfig": {"URL": "nats://@nats:4222"}},
        webhook(URL="https://user:@ris.example/"),
    ],
)
def test_a_url_with_a_place_for_a_password_and_none_in_it_is_refused(
    of_broker: OfBroker, content: dict[str, Any]
) -> None:
    said = of_broker(content)
    assert "a URL without an empty user or password (is the environment variable of this one set?)" in said
    assert "a value that is not shown here" in said


@pytest.mark.parametrize(
    "url", ["amqp://orthanc:secret@rabbit/", "amqp://rabbit/", "amqps://user@rabbit/", "amqp://rabbit:5672/a%40b"]
)
def test_a_url_with_its_password_or_without_any_place_for_one_is_fine(of_broker: OfBroker, url: str) -> None:
    assert of_broker({"Type": "rabbitmq", "RabbitConfig": {"URL": url}}) == ""


def test_an_empty_url_and_an_empty_option_of_kafka_are_named(of_broker: OfBroker) -> None:
    assert ASKS in of_broker(webhook(URL=""))
    kafka = {"BootstrapServers": "kafka:9092", "Options": {"sasl.username": "x", "sasl.password": ""}}
    assert "(sasl.password: is the environment variable set?)" in of_broker({"Type": "kafka", "KafkaConfig": kafka})


@pytest.fixture
def error_of(source: Source) -> Callable[[str, dict[str, Any]], str]:
    """Return the error of a section of a script."""
    common = source("common.settings")

    def error(script: str, section: dict[str, Any]) -> str:
        settings = source(f"{script}.settings").Settings
        assert common.read_settings(settings, "Section", {"Section": {}}) == settings()  # its own defaults may be empty
        with pytest.raises(common.SettingsError) as caught:
            common.read_settings(settings, "Section", {"Section": section})
        return str(caught.value)

    return error


@pytest.mark.parametrize(
    ("script", "section", "begin"),
    [
        ("anonymize_series", {"Secret": ""}, "Section.Secret"),
        ("audit_log", {"Key": ""}, "Section.Key"),
        ("audit_log", {"Path": ""}, "Section.Path"),
        ("purge_old_studies", {"StatePath": ""}, "Section.StatePath"),
        ("cmove_interceptor", {"Notify": [{"Url": ""}]}, "Section.Notify[0].Url"),
        ("cmove_interceptor", {"Notify": [{"Url": "https://x.example/", "Token": ""}]}, "Section.Notify[0].Token"),
        (
            "cmove_interceptor",
            {"Notify": [{"Url": "https://x.example/", "Password": ""}]},
            "Section.Notify[0].Password",
        ),
        (
            "cmove_interceptor",
            {"Notify": [{"Url": "https://x.example/", "Username": ""}]},
            "Section.Notify[0].Username",
        ),
        ("cmove_interceptor", {"Notify": [{"Url": "https://x.example/", "CaFile": ""}]}, "Section.Notify[0].CaFile"),
    ],
)
def test_an_empty_secret_path_or_address_is_never_taken_for_one_that_was_not_given(
    error_of: Error, script: str, section: dict[str, Any], begin: str
) -> None:
    said = error_of(script, section)
    assert said.startswith(f"{begin} {ASKS}")


def test_an_empty_header_of_a_notification_is_named(error_of: Error) -> None:
    headers = {"Authorization": "Bearer "}
    said = error_of("cmove_interceptor", {"Notify": [{"Url": "https://x.example/", "Headers": headers}]})
    assert "(Authorization: is the environment variable set?)" in said


@pytest.mark.parametrize(
    "arn",
    [
        "arn:aws:sns:region:account-id:topic-name",
        "arn:aws:sns::123456789012:x",
        "arn:aws:sns:eu-west-1:12345678901:x",
        "arn:aws:sns:eu-west-1:1234567890123:x",
    ],
)
def test_a_topic_has_a_region_and_an_account_of_twelve_digits(of_broker: OfBroker, arn: str) -> None:
    said = of_broker({"Type": "sqs-sns", "SNSConfig": {"TopicArn": arn}})
    assert said.endswith("allowed: arn:aws:sns:REGION:ACCOUNT:NAME, REGION as eu-west-1, ACCOUNT of twelve digits")
    assert of_broker({"Type": "sqs-sns", "SNSConfig": {"TopicArn": "arn:aws:sns:eu-west-1:123456789012:x"}}) == ""


@pytest.mark.parametrize("text", ["20260131", "2026-01-31"])
def test_a_day_is_its_first_moment(source: Source, text: str) -> None:
    moment = source("common.parameters").Moment()
    assert moment.from_body(text) == moment.from_body("2026-01-31T00:00:00Z")


@pytest.mark.parametrize("wrong", ["2026013", "20260231", "2026-1-31", "2026-01-31T13:00:00", "", None, 20260131, "x"])
def test_what_is_neither_a_day_nor_a_time_with_a_zone_is_refused(source: Source, wrong: Any) -> None:
    with pytest.raises(ValueError, match="a time with its zone"):
        source("common.parameters").Moment().from_body(wrong)
