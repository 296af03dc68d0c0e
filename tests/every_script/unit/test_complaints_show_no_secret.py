# SPDX-License-Identifier: AGPL-3.0-or-later
"""A complaint about a configuration shows no secret of it, whatever shape somebody has given to it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from tests.every_script.test_misspelt_keys import Script, Steps
from tests.every_script.test_misspelt_keys import script as script  # the fixture

HUSH = "Hush" * 9  # what nobody must see; long enough for each of them
WEBHOOK = {
    "URL": f"https://u:{HUSH}@ris.example/{HUSH}",
    "Secret": HUSH,
    "Headers": {"X-Key": HUSH},
    "Proxy": f"http://u:{HUSH}@proxy.example:3128",
}
SERVICE = {
    "Headers": {"X-Key": HUSH},
    "Url": f"https://ris.example/moves?key={HUSH}",
    "Method": "POST",
    "Username": "u",
    "Password": HUSH,
    "Body": {"key": HUSH, "list": [HUSH]},
    "Proxy": f"http://u:{HUSH}@proxy.example:3128",
}
# Of each script that has secrets in its section: a section with all of them.
WITH_SECRETS: dict[str, dict[str, Any]] = {
    "AnonymizeSeries": {"Secret": HUSH, "Recipes": {"all": {}}},
    "AuditLog": {
        "Key": HUSH,
        "To": "syslog",
        "Syslog": {"KeyPassword": HUSH, "Host": "atna.example", "CertificateFile": "/own.pem"},
    },
    "CMoveInterceptor": {"Notify": [SERVICE, {"Token": HUSH, "Url": "https://b.example/"}]},
    "DicomEvents": {
        "Broker": {
            "RabbitConfig": {"URL": f"amqp://u:{HUSH}@a/", "MoreURLs": [f"amqp://u:{HUSH}@b/"]},
            "Type": "rabbitmq",
        },
        "Brokers": {
            "stream": {"NatsConfig": {"URL": f"nats://{HUSH}@a", "MoreURLs": [f"nats://u:{HUSH}@b"]}, "Type": "nats"},
            "topic": {
                "KafkaConfig": {"Options": {"sasl.password": HUSH}, "BootstrapServers": "a:9092"},
                "Type": "kafka",
            },
            "hook": {"WebhookConfig": WEBHOOK, "Type": "webhook"},
        },
    },
}


def places(value: Any, before: Steps = ()) -> Iterator[Steps]:
    """The path to each value, at every depth."""
    yield before
    for step, each in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(each, (*before, step))


def at(value: Any, path: Steps) -> Any:
    for step in path:
        value = value[step]
    return value


def wrong_shapes(value: Any) -> Iterator[Any]:
    """What somebody may have written in its place."""
    yield from (5, [value], {"x": value}, json.dumps(value))
    yield from value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, str):
        yield from (f"{value} ", f" {value}", f"{value}\n", f"é{value}", f"{{{value}}}", f"{value} is too long" * 20)
        yield from (value.replace("://", ":/"), value.replace("@", "@@"), value.replace(".example", ".example:port"))


def wrong(section: dict[str, Any]) -> Iterator[Any]:
    """The section with one value of another shape, with one key mistyped, with one key in another case."""
    for path in places(section):
        for shape in wrong_shapes(at(section, path)):
            if not path:
                yield shape
                continue
            changed = copy.deepcopy(section)
            at(changed, path[:-1])[path[-1]] = shape
            yield changed
        if path and isinstance(path[-1], str):
            for key in (f"{path[-1]}x", path[-1].lower(), path[-1][1:]):
                changed = copy.deepcopy(section)
                parent = at(changed, path[:-1])
                parent[key] = parent.pop(path[-1])
                yield changed


def test_no_complaint_shows_a_secret(script: Script) -> None:
    complaints, leaks = 0, set[str]()
    for section in wrong(WITH_SECRETS.get(script.section, {})):
        complaints += bool(script.start({script.section: section}))
        leaks |= {text for _, text in script.standin.logs if "Hush" in text}
    assert not leaks
    assert complaints > 10 or script.section not in WITH_SECRETS
