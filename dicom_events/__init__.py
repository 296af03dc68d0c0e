# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/dicom_events/__init__.py: edit that, never this file.
"""Publishes to other software what happens here: series become stable, images are stored, studies are deleted.

Each event is on disk before Orthanc continues, and reaches RabbitMQ, SNS, NATS, Kafka, a webhook or a file at least once,
in order for each series, after `kill -9`, restarts, and days without a broker. Without a section in the configuration, the
events are written to `dicom_events.jsonl` beside Orthanc's index.

    "PythonScript": "/path/to/dicom_events/__init__.py",
    "DicomEvents": {"Broker": {"Type": "rabbitmq", "RabbitConfig": {"URL": "amqp://localhost/", "Exchange": "orthanc"}}}

To look at and to act on, with curl:

    GET  /dicom-events/status
    GET  /dicom-events/dead-letters                  also broker=, since=, limit=
    POST /dicom-events/dead-letters/{id}/retry       and /dicom-events/dead-letters/retry for all
    DELETE /dicom-events/brokers/{name}              what waits for one that is not configured any more
    POST /dicom-events/replay                        {"Study": "…"} or {"From": "2026-01-01T00:00:00Z", "To": "…"}

`file` and `log` need nothing but Python's standard library; what the others need is in requirements.txt beside this
file. All keys and events: docs/dicom_events.md. From another script of a combined file:
`import dicom_events`, then `dicom_events.publish("org.hospital.report", {"report": 1}, "studies/…")`.
"""

from __future__ import annotations

if __name__ == "__main__":  # started in a terminal: Orthanc loads it under its own name
    import sys

    print(__doc__)
    sys.exit(0 if sys.argv[1:] in ([], ["-h"], ["--help"]) else 2)

import importlib.util
import sys
from pathlib import Path
from typing import Any

if not __package__:
    # The plugin loads this file as a module without a package, its folder first on sys.path: load the package that it is.
    _folder = Path(__file__).parent
    sys.path[:] = [each for each in sys.path if not each or Path(each).absolute() != _folder.absolute()]
    _spec = importlib.util.spec_from_file_location(_folder.name, __file__, submodule_search_locations=[str(_folder)])
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules[_folder.name] = _module = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_module)
    __version__ = _module.__version__
    globals().update({name: value for name, value in vars(_module).items() if not name.startswith("_")})
else:
    from ._common.routes import ROUTES as ROUTES
    from ._common.version import __version__ as __version__

    from .broker_settings import BrokerSettings as BrokerSettings
    from .broker_settings import FileConfig as FileConfig
    from .broker_settings import KafkaConfig as KafkaConfig
    from .broker_settings import NatsConfig as NatsConfig
    from .broker_settings import RabbitConfig as RabbitConfig
    from .broker_settings import SNSConfig as SNSConfig
    from .broker_settings import WebhookConfig as WebhookConfig
    from .service import Service
    from .settings import Settings as Settings

    _service = Service()

    def publish(type: str, data: Any, subject: str) -> str:  # noqa: A002 - CloudEvents' own names
        """Publish an event of your own through the same outbox; return its `id`, once it is on disk.

        `type` as `org.hospital.report` (ASCII, not below `dicom.` or `orthanc.`), `data` anything that is JSON, `subject` what
        it is about: events of one subject are in order. Raises `ValueError` for what no broker takes, `RuntimeError` if the
        script is idle, or the disk or the outbox full.
        """
        return _service.publish(type, data, subject)

    _service.register()
