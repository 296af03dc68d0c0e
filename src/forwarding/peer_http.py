# SPDX-License-Identifier: AGPL-3.0-or-later
"""HTTP to a peer as Orthanc's own client would send it: proxy, authority, client certificate, user and headers."""

import base64
import contextlib
import http.client
import ssl
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

LARGEST_ANSWER = 4 * 1024 * 1024  # bytes; of a hundred instances in short form, 100 times what Orthanc needs


class OnlyOrthancCanAskError(ValueError):
    """Only Orthanc itself can speak to this peer, with what we don't have: a password, a PKCS#11 key, a proxy of another kind."""


class PeerHttp:
    """Sends requests to peers.

    Parameters
    ----------
    configuration : Orthanc's, which names proxy and authorities.
    """

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._configuration = configuration

    def request(
        self, peer: Mapping[str, Any], method: str, path: str, body: bytes | None, timeout: float
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Send one request, and return status, headers and content of its answer. No redirect is followed.

        No error has a header in its text, nor a part of the URL: they may be secret.
        """
        try:
            return self._exchange(peer, method, path, body, timeout)
        except (OnlyOrthancCanAskError, OSError):  # one of TLS is both an OSError and a ValueError
            raise
        except (ValueError, http.client.InvalidURL) as error:
            raise ValueError(
                f"its address or one of its HttpHeaders can't be sent as it is written ({type(error).__name__})"
            ) from None

    def _exchange(
        self, peer: Mapping[str, Any], method: str, path: str, body: bytes | None, timeout: float
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        url = urllib.parse.urlsplit(peer["Url"])
        headers = dict(peer.get("HttpHeaders") or {})
        user, password = peer.get("Username") or url.username, peer.get("Password") or url.password
        if user:
            headers["Authorization"] = _basic(user, password or "")
        target = f"{url.path.rstrip('/')}{path}"
        connection = self._connect(peer, url, timeout)
        if isinstance(connection, _Proxied):
            headers |= connection.credentials
            target = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{target}"
        with contextlib.closing(connection):
            connection.request(method, target, body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read(LARGEST_ANSWER)

    def _connect(
        self, peer: Mapping[str, Any], url: urllib.parse.SplitResult, timeout: float
    ) -> http.client.HTTPConnection:
        """Return a connection with the proxy, the authority and the client certificate that Orthanc itself would use."""
        proxy = self._proxy(url)
        encrypted, host = url.scheme == "https", url.hostname or ""
        if not encrypted and proxy is None:
            return http.client.HTTPConnection(host, url.port, timeout=timeout)
        if not encrypted and proxy is not None:
            plain = _Proxied(proxy.hostname or "", proxy.port or 1080, timeout=timeout)
            plain.credentials = _proxy_credentials(proxy)
            return plain
        context = self._tls(peer)
        if proxy is None:
            return http.client.HTTPSConnection(host, url.port, timeout=timeout, context=context)
        tunnel = http.client.HTTPSConnection(proxy.hostname or "", proxy.port or 1080, timeout=timeout, context=context)
        tunnel.set_tunnel(host, url.port or 443, _proxy_credentials(proxy))
        return tunnel

    def _proxy(self, url: urllib.parse.SplitResult) -> urllib.parse.SplitResult | None:
        """Return the proxy that Orthanc uses: `HttpProxy`, else what the environment says, as curl reads it."""
        if urllib.request.proxy_bypass(url.hostname or ""):
            return None
        inherited = urllib.request.getproxies()
        proxy = self._configuration.get("HttpProxy") or inherited.get(url.scheme) or inherited.get("all")
        if not proxy:
            return None
        found = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if found.scheme != "http":
            raise OnlyOrthancCanAskError(f"only Orthanc can speak to a proxy by {found.scheme}")
        return found

    def _tls(self, peer: Mapping[str, Any]) -> ssl.SSLContext:
        configuration = self._configuration
        try:
            context = ssl.create_default_context(cafile=configuration.get("HttpsCACertificates") or None)
            if certificate := peer.get("CertificateFile"):
                key, password = peer.get("CertificateKeyFile"), peer.get("CertificateKeyPassword")
                context.load_cert_chain(certificate, key or None, password or "")
        except OSError as error:
            raise OnlyOrthancCanAskError(f"a certificate of Orthanc's can't be used here: {error}") from error
        # As curl does: a certificate that is trusted itself needs no authority, and an old one is no worse.
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
        if not configuration.get("HttpsVerifyPeers", True):
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


class _Proxied(http.client.HTTPConnection):
    """A connection to a proxy, which is asked for whole URLs."""

    credentials: Mapping[str, str] = {}


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _proxy_credentials(proxy: urllib.parse.SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    user, password = urllib.parse.unquote(proxy.username), urllib.parse.unquote(proxy.password or "")
    return {"Proxy-Authorization": _basic(user, password)}
