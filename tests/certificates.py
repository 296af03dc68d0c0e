# SPDX-License-Identifier: AGPL-3.0-or-later
"""Certificates as Orthancs have them, made by openssl: one PEM file each with the private key, as `SslCertificate` wants it."""

from __future__ import annotations

import subprocess
from pathlib import Path

LEAF = ("basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature", "extendedKeyUsage=serverAuth")
SAN = "subjectAltName=DNS:orthanc.hospital.example"
KEYS = {"ec": ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], "rsa": ["rsa:2048"]}


class Certificates:
    """Makes certificates in a folder: each file has the key, the certificate, then those that are to follow it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(
        self,
        name: str,
        extensions: tuple[str, ...] | None,
        *,
        issuer: str | None = None,
        subject: str = "/CN=orthanc.hospital.example",
        key: str = "ec",
        clock: str = "",
        also: tuple[str, ...] = (),
    ) -> Path:
        """Make a certificate.

        Parameters
        ----------
        extensions : of X.509 version 3; None: a certificate of version 1, which has none.
        issuer : the name of the one who signs it; None: itself.
        clock : the day on which it is made, if that is not today; it is valid for 30 days.
        also : names of those whose certificates follow in the file.
        """
        own, private, config = (self.folder / f"{name}.{end}" for end in ("crt", "key", "cnf"))
        lines = ["[req]", "distinguished_name=dn", *(["x509_extensions=v3"] if extensions else []), "[dn]", "[v3]"]
        config.write_text("\n".join([*lines, *(extensions or ()), ""]))
        command = ["openssl", "req", "-x509", "-config", str(config), "-newkey", *KEYS[key], "-nodes", "-days", "30"]
        command += ["-subj", subject, "-keyout", str(private), "-out", str(own)]
        if issuer:
            command += ["-CA", str(self.folder / f"{issuer}.crt"), "-CAkey", str(self.folder / f"{issuer}.key")]
        if extensions is None and _knows("-x509v1"):  # before, no extensions meant version 1
            command.append("-x509v1")
        subprocess.run([*(["faketime", clock] if clock else []), *command], check=True, capture_output=True)
        file = self.folder / f"{name}.pem"
        others = [(self.folder / f"{each}.crt").read_text() for each in also]
        file.write_text("".join([private.read_text(), own.read_text(), *others]))
        return file

    def text(self, name: str) -> str:
        """Return what openssl prints of a certificate."""
        command = ["openssl", "x509", "-in", str(self.folder / f"{name}.crt"), "-noout", "-text"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def make_each_kind(self) -> dict[str, Path]:
        """Make one of each kind that a hospital may have, by what it is."""
        authority = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
        self.make("root", authority, subject="/CN=Root of the hospital")
        self.make("intermediate", authority, issuer="root", subject="/CN=Intermediate of the hospital")
        leaf = (*LEAF, SAN)
        self.make("other leaf", leaf, issuer="intermediate")
        return {
            "leaf of an authority": self.make("leaf", leaf, issuer="root"),
            "leaf and intermediate": self.make("chained", leaf, issuer="intermediate", also=("intermediate",)),
            "leaf, intermediate and root": self.make("whole", leaf, issuer="intermediate", also=("intermediate", "root")),
            "leaf of an intermediate, alone": self.make("alone", leaf, issuer="intermediate"),
            "self-signed as openssl makes it": self.make(
                "usual", ("subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid", "basicConstraints=critical,CA:TRUE", SAN)
            ),
            "self-signed leaf": self.make("strict", leaf),
            "self-signed of version 1": self.make("version 1", None, key="rsa"),
            "self-signed without names, constraints and usage": self.make("bare", ("subjectKeyIdentifier=hash",), key="rsa"),
            "self-signed of an authority's usage": self.make("authority", authority),
            "self-signed for clients alone": self.make("client", ("extendedKeyUsage=clientAuth",)),
            "self-signed and past its date": self.make("expired", leaf, clock="2020-01-01 12:00:00"),
            "of another name": self.make("named", (*LEAF, "subjectAltName=DNS:elsewhere.example"), subject="/CN=elsewhere"),
        }  # fmt: skip


def _knows(option: str) -> bool:
    done = subprocess.run(["openssl", "req", "-help"], check=False, capture_output=True, text=True)
    return option in done.stdout + done.stderr
