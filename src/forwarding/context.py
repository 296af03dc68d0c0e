# SPDX-License-Identifier: AGPL-3.0-or-later
"""What all parts of one forwarder share."""

import dataclasses
import threading
from collections.abc import Mapping
from typing import Any

from common.ledger import Ledger
from common.loopback import Loopback
from common.worker import Trouble
from forwarding.rules import ForwardingRule
from forwarding.settings import ForwardingSettings
from forwarding.transports import Transport


@dataclasses.dataclass(frozen=True)
class Context:
    """What all parts of one forwarder share.

    Attributes
    ----------
    name : of the script, with dashes: of its routes, and in the log.
    configuration : Orthanc's.
    wake : wakes the forwarder's thread for another turn.
    stopping : the thread is to end.
    trouble : what went wrong last, for the status.
    """

    name: str
    transport: Transport
    settings: ForwardingSettings
    configuration: Mapping[str, Any]
    rules: tuple[ForwardingRule, ...]
    loopback: Loopback
    ledger: Ledger
    wake: threading.Event
    stopping: threading.Event
    trouble: Trouble
