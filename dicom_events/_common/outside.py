# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/outside.py: edit that, never this file.
"""Services of others, called over HTTP by the package requests: one host each, no redirects, bounded in time and size.

    outside = Outside("https://ris.example", ca_file="/etc/ssl/hospital.pem")
    answer = outside.request("POST", "/moves?x=1", headers={"Content-Type": "application/json"}, body=b"{}", timeout=10)
    if answer.status == 200: ...

Whoever calls nobody needs no package: requests is imported by `import_requests`, in a thread of the script's own, or at the
first call. Proxies, credentials and authorities are those that are given: never those of the environment, of .netrc, or of
a package. No error has a URL, a header or a body in its text: they may be secret.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import http.cookiejar
import importlib.metadata
import importlib.util
import logging
import re
import socket
import ssl
import threading
import time
import urllib.parse
import warnings
from collections.abc import Mapping
from typing import Any

from .packages import package_problem

REQUESTS = ("requests", "2.28", "python3-requests")  # for pip, the oldest version that works (Debian 12's), for apt
IDLE_CONNECTION_SECONDS = (
    4.0  # after which a kept connection is not trusted any more: many servers close theirs after 5
)
CONNECTIONS_KEPT = 4  # of calls at the same time
LOGGERS = ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry")  # what they log has URLs in it
THREAD = threading.local()  # .call: what the thread asks now, if it asks


class OutsideError(Exception):
    """There is no answer: the service can't be reached, is not who it should be, or took too long."""


class UnsendableError(Exception):
    """A request that can't be sent to anybody, because of what is in it."""


@dataclasses.dataclass(frozen=True)
class OutsideAnswer:
    """What a service answered; `problem` is why `body` is not all of it, or ""."""

    status: int
    reason: str
    body: bytes
    problem: str = ""


def proxy_or_null(proxy: str | None) -> str | None:
    """Return what is allowed as a proxy in a configuration, unless this is."""
    with contextlib.suppress(ValueError):  # the port, or brackets
        parts = urllib.parse.urlsplit(proxy or "")
        if proxy is None or (parts.scheme == "http" and parts.hostname and parts.port and parts.path in ("", "/")):
            return None
    return "http://HOST:PORT, with USER:PASSWORD@ before the host if it wants them, or null"


def requests_problem() -> str | None:
    """Return why requests can't be used, and the remedy, without importing it; None if it can."""
    package, least, debian = REQUESTS
    if importlib.util.find_spec(package) is None:
        return package_problem(package, least, None, debian)
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # it works without its metadata too
        return package_problem(package, least, importlib.metadata.version(package), debian)
    return None


def import_requests() -> None:
    """Import requests. OutsideCall it in a thread of the script's own: for those of Orthanc's web server it may be too large.

    Raises
    ------
    ImportError : it is missing, too old or broken.
    """
    package, least, debian = REQUESTS
    try:
        import requests
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(package_problem(package, least, None, debian)) from None
    if problem := package_problem(package, least, requests.__version__, debian):
        raise ImportError(problem)


class Outside:
    """One service: a session, and the calls that are under way. Any thread may call; several may at a time.

    Parameters
    ----------
    url : scheme, host and port; what else is in it is not used.
    ca_file : whom to trust (PEM); None: the authorities of the system.
    certificate_file, key_file, key_password : the client certificate (PEM), its key if that is in another file.
    proxy : `http://[USER:PASSWORD@]HOST:PORT`; None: none.
    connections : how many are kept for the next calls.

    Raises
    ------
    OSError : a file of certificates can't be read (ssl.SSLError is one).
    """

    def __init__(
        self,
        url: str,
        *,
        verify_tls: bool = True,
        ca_file: str | None = None,
        certificate_file: str | None = None,
        key_file: str | None = None,
        key_password: str = "",
        proxy: str | None = None,
        connections: int = CONNECTIONS_KEPT,
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        self._origin = f"{parts.scheme.lower()}://{parts.netloc.rpartition('@')[2]}"
        self._host, self._verify_tls, self._proxy, self._connections = parts.hostname, verify_tls, proxy, connections
        self._context: ssl.SSLContext | None = None
        if parts.scheme.lower() == "https":
            self._context = context = ssl.create_default_context(cafile=ca_file)
            if not verify_tls:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if certificate_file:
                # With a password OpenSSL does not ask for one at a terminal that nobody sits at.
                context.load_cert_chain(certificate_file, key_file, key_password)
        self._lock = threading.Lock()
        self._session: Any = None
        self._under_way: set[OutsideCall] = set()
        self._used, self._is_closed = 0.0, False

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        timeout: float,
        body: bytes | None = None,
        total: float | None = None,
        largest: int = 0,
    ) -> OutsideAnswer:
        """Send a request, and return the answer, whatever its status: a redirect is not followed.

        Parameters
        ----------
        target : path and query, percent-encoded. It is sent as it is.
        timeout : seconds to connect, and that the service may be silent.
        total : seconds for all of it, however slowly the service answers; None: twice `timeout`. (A name that has several
            addresses, each of which has to be waited for, may take longer.)
        largest : bytes of the answer's body that are read, 0 for a caller who looks at the status only.

        Raises
        ------
        UnsendableError : this request can't be sent.
        OutsideError : there is no answer.
        """
        total = 2 * timeout if total is None else total
        call = OutsideCall()
        clock = threading.Timer(total, call.end, [f"it took longer than {total:g} s"])
        clock.daemon = True
        session = self._begin(call)
        try:
            prepared = self._prepare(session, method, target, headers, body)
            THREAD.call = call
            clock.start()
            silent = min(timeout, total + 1)  # the clock is to end what takes too long: so it is told
            response = session.send(prepared, stream=True, timeout=silent, allow_redirects=False)
            with contextlib.closing(response):
                if call.ended:  # headers that break off are no error of http.client's
                    raise OutsideError(call.ended)
                content, problem = read_answer(response, largest, call)
            return OutsideAnswer(response.status_code, str(response.reason or ""), content, problem)
        except (UnsendableError, OutsideError):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is: what requests and urllib3 raise quotes the URL
            raise OutsideError(call.ended or why_unanswered(error)) from None
        finally:
            THREAD.call = None
            clock.cancel()
            self._end(call)

    def close(self) -> None:
        """End all calls that are under way, each with an `OutsideError`, and take no more."""
        with self._lock:
            self._is_closed = True
            calls, session = list(self._under_way), self._session
        for call in calls:
            call.end("it was ended here")
        if session is not None:
            session.close()

    def _begin(self, call: OutsideCall) -> Any:
        with self._lock:
            if self._is_closed:
                raise OutsideError("it was ended here")
            if self._session is None:
                self._session = self._open()
            elif not self._under_way and time.monotonic() - self._used > IDLE_CONNECTION_SECONDS:
                self._session.close()  # its connections; it opens others
            self._under_way.add(call)
            return self._session

    def _end(self, call: OutsideCall) -> None:
        call.forget_socket()
        with self._lock:
            self._under_way.discard(call)
            self._used = time.monotonic()

    def _open(self) -> Any:
        for name in LOGGERS:
            logging.getLogger(name).addFilter(is_none_of_ours)
        if not self._verify_tls:  # so it was configured; urllib3 would warn of it
            warnings.filterwarnings(
                "ignore", f"Unverified HTTPS request is being made to host '{re.escape(str(self._host))}'"
            )
        session = make_session(self._context, self._connections)
        session.trust_env = False  # no proxy of the environment, no .netrc, no other authorities
        session.verify = self._verify_tls
        session.proxies = {"http": self._proxy, "https": self._proxy} if self._proxy else {}
        session.headers.clear()
        session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))  # none is kept
        return session

    def _prepare(self, session: Any, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> Any:
        import requests

        # An answer that is sent as it is has the size that it seems to have.
        sent = {"Accept-Encoding": "identity", **{name: value.strip() for name, value in headers.items()}}
        try:
            for value in sent.values():
                value.encode("latin-1")
            prepared = session.prepare_request(requests.Request(method, "http://outside/", sent, data=body))
        except (requests.RequestException, ValueError) as error:
            raise UnsendableError(f"a header or the body can't be sent ({type(error).__name__})") from None
        # As it is: requests makes `..` of `%2E%2E`, and a way out of its folder of a value that has it.
        prepared.url = self._origin + target
        return prepared


class OutsideCall:
    """One request that is under way. To end it, its connection is shut down: whoever reads from it reads no more.

    The timeout of a socket alone is not enough: it begins again with each byte.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self.ended = ""
        """Why it was ended, or ""."""

    def use_socket(self, connected: socket.socket) -> None:
        """Take the socket of the connection by which it is sent."""
        with self._lock:
            self._socket = connected
        if self.ended:
            self.end(self.ended)

    def forget_socket(self) -> None:
        """Leave the connection to the next call."""
        with self._lock:
            self._socket = None

    def end(self, why: str) -> None:
        """End it, from another thread."""
        with self._lock:
            self.ended = self.ended or why
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # of TLS, too, only the socket


def make_session(context: ssl.SSLContext | None, connections: int) -> Any:
    """Return a session of requests that trusts as `context` says, follows no redirect, and gives each `OutsideCall` its socket.

    The classes are made here, because those that they are made from are imported late.
    """
    import requests
    import requests.adapters
    import urllib3
    import urllib3.connection
    import urllib3.connectionpool

    if context is not None and urllib3.__version__.startswith("1."):  # type: ignore[attr-defined]
        # It gives OpenSSL no name where the host is an address, and compares the certificate with both itself.
        context.check_hostname = False

    class Connection(urllib3.connection.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            give_socket(self.sock)

        def request(self, *arguments: Any, **named: Any) -> None:
            give_socket(self.sock)
            super().request(*arguments, **named)

    class EncryptedConnection(Connection, urllib3.connection.HTTPSConnection):
        pass

    class Pool(urllib3.connectionpool.HTTPConnectionPool):
        ConnectionCls = Connection

    class EncryptedPool(urllib3.connectionpool.HTTPSConnectionPool):
        ConnectionCls = EncryptedConnection

    pools = {"http": Pool, "https": EncryptedPool}

    class Adapter(requests.adapters.HTTPAdapter):
        def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
            super().init_poolmanager(*arguments, **named, ssl_context=context)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, proxy: Any, **named: Any) -> Any:
            manager = super().proxy_manager_for(proxy, **named, ssl_context=context)
            manager.pool_classes_by_scheme = pools
            return manager

        def cert_verify(self, *_: Any) -> None:
            """Leave the context as it is: requests would add authorities of its own."""

    class Session(requests.Session):
        def get_redirect_target(self, *_: Any) -> None:
            """Return nowhere. `allow_redirects=False` is not enough: it reads the body of a redirect, however large."""

    session = Session()
    adapter = Adapter(pool_connections=1, pool_maxsize=connections)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def give_socket(connected: socket.socket | None) -> None:
    """Let the call of this thread know by which connection it is sent."""
    call = getattr(THREAD, "call", None)
    if call is not None and connected is not None:
        call.use_socket(connected)


def is_none_of_ours(_record: logging.LogRecord) -> bool:
    """Return whether a record of urllib3's may be logged: not while this thread calls, for it has the URL."""
    return getattr(THREAD, "call", None) is None


def read_answer(response: Any, largest: int, call: OutsideCall) -> tuple[bytes, str]:
    """Return the body, or its beginning and why it is not all of it."""
    declared = response.headers.get("Content-Length", "")
    if not largest and declared != "0":
        return b"", "it was not read"
    try:
        body: bytes = response.raw.read(largest + 1, decode_content=False)
    except Exception as error:  # noqa: BLE001 - as above; the status is known all the same
        return b"", call.ended or why_unanswered(error)
    if len(body) > largest:
        return body[:largest], f"it has more than {largest} bytes"
    if call.ended:  # without a length a body ends where its connection ends
        return body, call.ended
    if declared.isdecimal() and "Transfer-Encoding" not in response.headers and len(body) < int(declared):
        return body, f"it ended after {len(body)} of {declared} bytes"  # urllib3 1.26 does not look
    return body, ""


def why_unanswered(error: BaseException) -> str:
    """Return what has happened: the first error below those of requests and urllib3, whose texts have the URL in them."""
    found = [error]
    for each in found:
        kind = type(each)
        if kind.__module__.partition(".")[0] not in ("requests", "urllib3") or kind.__name__ == "CertificateError":
            return text_without_secrets(each)
        below = (each.__cause__, each.__context__, *each.args, getattr(each, "reason", None))
        found += [one for one in below if isinstance(one, BaseException) and not any(one is other for other in found)]
    return type(error).__name__


def text_without_secrets(error: BaseException) -> str:
    """Return name and text of an error, or its name where the text may quote what was sent."""
    name = type(error).__name__
    if name == "CertificateError":  # of urllib3 1.26: has the names of host and certificate
        return f"{name}: {error}"
    if isinstance(error, UnicodeError):
        return "UnicodeError: the host has a name that can't be looked up"
    if isinstance(error, OSError | http.client.HTTPException) and not isinstance(error, http.client.InvalidURL):
        return " ".join(f"{name}: {error}".split())[:300]
    return name
