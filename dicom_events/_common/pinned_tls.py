# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/pinned_tls.py: edit that, never this file.
"""TLS to the one who has a certificate of which we have the file, whatever else that certificate says."""

import base64
import functools
import re
import ssl
from pathlib import Path
from typing import Any

# Of several, the first is the server's own, as OpenSSL reads such a file; the others are of those who issued it.
CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----(.+?)-----END", re.DOTALL)


@functools.cache  # a file that is renewed while Orthanc runs is not the certificate that it shows
def pinned_tls(file: Path, *, is_shown: bool) -> ssl.SSLContext:
    """Return the context of a client that trusts a server which has the first certificate of a PEM file, and no other.

    Names, dates, issuers and extensions don't count: they say who may be trusted by somebody who has not the certificate
    itself, and each version of Python reads them with another strictness.

    Parameters
    ----------
    is_shown : whether the client also shows that certificate as its own; the file has its private key then.

    Raises
    ------
    OSError, ValueError : the file can't be read, or has no certificate or no key.
    """
    found = CERTIFICATE.search(file.read_bytes())
    if found is None:
        raise ValueError(f"{file} has no certificate")
    context = _PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.pinned = base64.b64decode(found[1])
    if is_shown:
        context.load_cert_chain(file, password="")  # without one, OpenSSL would ask a person on the terminal
    return context


def _must_be_pinned(context: Any, certificate: bytes | None) -> None:
    if certificate != context.pinned:
        raise ssl.SSLCertVerificationError(1, "the server has another certificate than the one in SslCertificate")


class _PinnedSocket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        super().do_handshake(block)
        _must_be_pinned(self.context, self.getpeercert(binary_form=True))


class _PinnedObject(ssl.SSLObject):
    """TLS of coroutines."""

    def do_handshake(self) -> None:
        super().do_handshake()
        _must_be_pinned(self.context, self.getpeercert(binary_form=True))


class _PinnedContext(ssl.SSLContext):
    sslsocket_class, sslobject_class = _PinnedSocket, _PinnedObject
    pinned: bytes
