# SPDX-License-Identifier: AGPL-3.0-or-later
"""The section AuditLog of the configuration, and the key of the HMACs."""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from common.settings import SettingsError, durability_field, reconcile_field, state_path_field
from common.state import make_private, open_private

SECTION = "AuditLog"
MIN_KEY_LENGTH = 32  # characters


def wrong_key(key: str | None) -> str | None:
    """Return what is allowed, if this is no key."""
    return None if key is None or len(key) >= MIN_KEY_LENGTH else f"at least {MIN_KEY_LENGTH} characters"


def wrong_host(host: str) -> str | None:
    """Return what is allowed, if this is no name or address."""
    return None if re.fullmatch(r"[A-Za-z0-9_.:%-]+", host) else "a name or an address alone, as atna.hospital.example"


def _file_field(text: str) -> Any:
    return dataclasses.field(default=None, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class SyslogSettings:
    """Where an audit repository is, and how it is reached."""

    host: str | None = dataclasses.field(
        default=None, metadata={"check": wrong_host, "help": "Name or address of the audit repository; needed."}
    )
    port: int | None = dataclasses.field(
        default=None, metadata={"minimum": 1, "maximum": 65535, "help": "Its port; null: 6514, for UDP 514."}
    )
    protocol: str = dataclasses.field(
        default="tls",
        metadata={"choices": ("tls", "udp"), "help": "`tls` (RFC 5425), or `udp` (RFC 5426), which loses messages."},
    )
    ca_file: str | None = _file_field(
        "PEM file of those who may have issued the repository's certificate; null: whom the system trusts."
    )
    certificate_file: str | None = _file_field(
        "PEM file of this Orthanc's own certificate, where the repository wants one."
    )
    key_file: str | None = _file_field("PEM file of its private key; null: it is in `CertificateFile`.")
    key_password: str | None = dataclasses.field(
        default=None, metadata={"secret": True, "help": "Password of the private key, if it has one."}
    )
    audit_source: str | None = dataclasses.field(
        default=None, metadata={"help": "Name by which the repository knows this Orthanc; null: Orthanc's `Name`."}
    )

    def port_number(self) -> int:
        """Return the port, or the one that the protocol has."""
        return self.port or (514 if self.protocol == "udp" else 6514)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The section `AuditLog`."""

    REMOVED: ClassVar[Mapping[str, str]] = {
        "MaxFileSize": "the script decides that itself now (a new file begins after 64 MB)",
    }

    key: str | None = dataclasses.field(
        default=None,
        metadata={
            "secret": True,
            "check": wrong_key,
            "help": (
                "Secret of the checksums (HMAC), at least 32 characters. null: one is made and kept in "
                "`audit_log.key` beside the index."
            ),
        },
    )
    path: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the log; null: `audit-log` in that of the index."}
    )
    watch_requests: bool | None = dataclasses.field(
        default=None,
        metadata={
            "help": (
                "Also write down who asks for images over HTTP. null: from plugin 5.0 on; the filter of older "
                "ones leaks memory."
            )
        },
    )
    keep_days: float | None = dataclasses.field(
        default=None,
        metadata={"minimum": 1, "help": "Days after which files are deleted, and a line says so; null: never."},
    )
    to: str | None = dataclasses.field(
        default=None,
        metadata={
            "choices": ("syslog",),
            "help": "`syslog`: lines also go to an audit repository; null: to files alone.",
        },
    )
    syslog: SyslogSettings = dataclasses.field(
        default=SyslogSettings(), metadata={"help": 'The audit repository, with `"To": "syslog"`.'}
    )
    reconcile: bool = reconcile_field()
    durability: str = durability_field("what is written survives", "each write waits")
    state_path: str | None = state_path_field()

    def check(self) -> None:
        """Raise `SettingsError` if keys do not go together."""
        given, needs_tls = self.syslog, ("ca_file", "certificate_file", "key_file", "key_password")
        wrong = ""
        if self.to is None and given != SyslogSettings():
            wrong = f'{SECTION}.Syslog has no effect without {SECTION}.To, allowed: "To": "syslog"'
        elif self.to is not None and not given.host:
            wrong = f"{SECTION}.Syslog.Host is needed, allowed: the name or the address of the audit repository"
        elif given.protocol == "udp" and any(getattr(given, name) for name in needs_tls):
            wrong = f'{SECTION}.Syslog.Protocol: found "udp" with files of TLS, allowed: "tls", or none of these files'
        elif (given.key_file or given.key_password) and not given.certificate_file:
            wrong = f"{SECTION}.Syslog.CertificateFile is needed with KeyFile and KeyPassword, allowed: a PEM file"
        if wrong:
            raise SettingsError(wrong)


def read_or_make_key(path: Path) -> str:
    """Return the key in a file, which is made, whole or not at all, if it is not there. Raises OSError."""
    make_private(path)
    if not path.exists() or not path.stat().st_size:  # an older version left it empty where the disk was full
        growing = path.with_name(f"{path.name}.new")
        with os.fdopen(open_private(growing, os.O_TRUNC), "r+") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        growing.replace(path)
    if wrong_key(key := path.read_text().strip()):
        raise OSError(f"{path} holds no key of at least {MIN_KEY_LENGTH} characters")
    return key
