# SPDX-License-Identifier: AGPL-3.0-or-later
"""Peers, asked directly as Orthanc's own HTTP client would ask: whether one is an Orthanc, and which instances it has.

Orthanc follows redirects, and a POST that is redirected becomes a GET: to Orthanc its answer is a success. So is a login page.
"""

import contextlib
import http
import http.client
import json
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Collection, Mapping
from typing import Any

from common.loopback import Loopback, LoopbackError
from common.routes import one_line
from forwarding.misconfigured import MisconfiguredError
from forwarding.peer_http import OnlyOrthancCanAskError, PeerHttp

INSTANCES_PER_QUESTION = 100  # to `/tools/bulk-content`: more would hold up the peer's other work
CHECK_TIMEOUT_SECONDS = 10.0  # until a peer has answered who it is
PEER_TIMEOUT_SECONDS = 30.0  # until it has answered which of a hundred instances it has
DELIVER_TIMEOUT_SECONDS = 300.0  # until a part of an image is taken, and until it is stored
SYSTEM_KEYS = ("ApiVersion", "DicomAet", "Version")  # of each Orthanc's /system
NOT_NOW = (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS)  # of a proxy; and all from 500 up
CONFIRMED_SECONDS = 60.0  # that a peer that was found to be an Orthanc counts as one
REFUSED_SECONDS = 10.0  # that a peer that was not one counts as none
ASK_OPENLY_SECONDS = (
    3600.0  # between two questions without a password; a server may bar who asks often without a password
)


class Peers:
    """The peers that Orthanc knows.

    Parameters
    ----------
    configuration : Orthanc's, which has the passwords; Orthanc shows only what it knows of a peer besides.
    loopback : to this Orthanc.
    """

    def __init__(self, configuration: Mapping[str, Any], loopback: Loopback) -> None:
        self._configuration, self._loopback, self._http = configuration, loopback, PeerHttp(configuration)
        # By name: until when it counts, why nothing may be sent there, and what Orthanc showed of it before it was asked.
        self._found: dict[str, tuple[float, str, dict[str, Any] | None]] = {}
        self._asked_openly: dict[
            str, float
        ] = {}  # by URL: when it was asked without a password last, and did not redirect

    def why_not(self, name: str) -> str:
        """Return why nothing may be sent to a peer now, or nothing; it is asked once a minute at most.

        Raises
        ------
        LoopbackError : this Orthanc does not answer.
        """
        until, why, was = self._found.get(name, (0.0, "", None))
        public: dict[str, Any] | None = None
        try:
            public = self._public(name)
            if time.monotonic() < until and public == was:
                return why
            self.check(name)
            why = ""
        except MisconfiguredError as error:
            why = str(error)
        except (OSError, http.client.HTTPException, ValueError, LoopbackError) as error:
            if isinstance(error, LoopbackError) and error.status == 0:
                raise
            why = f"{name} can't be asked who it is: {error}"
        until = time.monotonic() + (REFUSED_SECONDS if why else CONFIRMED_SECONDS)
        self._found[name] = until, one_line(why), public
        return one_line(why)

    def check(self, name: str) -> None:
        """Ask a peer for its `/system`, with its credentials and without following a redirect.

        Raises
        ------
        MisconfiguredError : it answers, but is no Orthanc (the address it redirects to is in the text), or refuses us.
        OSError, HTTPException, LoopbackError, ValueError : it can't be reached now.
        """
        try:
            status, headers, content = self._http.request(
                self.settings(name), "GET", "/system", None, CHECK_TIMEOUT_SECONDS
            )
        except (OnlyOrthancCanAskError, ssl.SSLError):
            self._check_over_orthanc(name)
            return
        if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR or status in NOT_NOW:
            raise OSError(f"it answers {status} to GET /system")
        if http.HTTPStatus.MULTIPLE_CHOICES <= status < http.HTTPStatus.BAD_REQUEST:
            raise MisconfiguredError(redirected(name, self.settings(name)["Url"], headers.get("Location", "")))
        if status != http.HTTPStatus.OK:
            is_denied = status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
            why = (
                ", which its user in OrthancPeers must be allowed to see"
                if is_denied
                else ": is its URL in OrthancPeers right?"
            )
            raise MisconfiguredError(f"{name} answers {status} to GET /system{why}")
        _raise_unless_orthanc(name, content)

    def _check_over_orthanc(self, name: str) -> None:
        """Check over Orthanc's own connection, which follows redirects: whether there are any is asked without credentials."""
        url = str(self._public(name)["Url"])
        if time.monotonic() - self._asked_openly.get(url, -ASK_OPENLY_SECONDS) >= ASK_OPENLY_SECONDS:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                status, headers, _ = self._http.request({"Url": url}, "GET", "/system", None, CHECK_TIMEOUT_SECONDS)
                if http.HTTPStatus.MULTIPLE_CHOICES <= status < http.HTTPStatus.BAD_REQUEST:
                    raise MisconfiguredError(redirected(name, url, headers.get("Location", "")))
            self._asked_openly[url] = time.monotonic()
        content = self._loopback.request_raw("GET", f"/peers/{urllib.parse.quote(name, safe='')}/system")[1]
        _raise_unless_orthanc(name, content)

    def instances_of(self, name: str, instances: Collection[str], within: Collection[str] = ()) -> set[str]:
        """Return which of these instances a peer says it has.

        Orthanc's identifier of an instance is made of PatientID, Study, Series and SOP Instance UID: the same UIDs under another
        patient have another one.

        Parameters
        ----------
        within : series and studies, whose lists are asked for first: an instance in the list of its series takes the peer a third
            of the time that its own content takes. What they don't show is asked for one by one.

        Raises
        ------
        ValueError, OSError, HTTPException, LoopbackError : it can't be asked, or does not answer as an Orthanc.
        """
        there = self._listed_in(name, within) if within else set[str]()
        there |= {one["ID"] for one in self._content(name, {*instances} - there, short=True)}
        return there.intersection(instances)

    def _listed_in(self, name: str, resources: Collection[str]) -> set[str]:
        body = {"Resources": list(resources), "Level": "Series", "Short": True, "Metadata": False}
        with contextlib.suppress(ValueError):  # it has none of them, or so much that not all of it is read
            return {str(one) for series in self._ask(name, body) for one in series.get("Instances", ())}
        return set()

    def deliver(self, _loopback: Loopback, name: str, content: bytes) -> None:
        """Send one image, given as its file, to a peer, which says of it that it has it.

        Raises
        ------
        ValueError : it refuses it, drops it, is no Orthanc, or only Orthanc could speak to it.
        OSError, HTTPException, LoopbackError : it can't be reached, or breaks off.
        """
        try:
            peer = self.settings(name)
        except OnlyOrthancCanAskError as error:
            raise ValueError(f"the script can't connect to {name} itself, as changed images need: {error}") from error
        status, headers, said = self._http.request(peer, "POST", "/instances", content, DELIVER_TIMEOUT_SECONDS)
        if http.HTTPStatus.MULTIPLE_CHOICES <= status < http.HTTPStatus.BAD_REQUEST:
            raise ValueError(redirected(name, peer["Url"], headers.get("Location", "")))
        if status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN):
            raise ValueError(f"{name} answers {status} to POST /instances: bad credentials")
        answer = _decoded(said)
        if status != http.HTTPStatus.OK:
            why = one_line(answer.get("Details") or answer.get("Message") or "") if isinstance(answer, dict) else ""
            raise ValueError(f"{name} answers {status} to POST /instances{': ' if why else ''}{why}")
        found = answer.get("Status") if isinstance(answer, dict) else None
        if found not in ("Success", "AlreadyStored"):
            what = f"has not kept it ({one_line(found)})" if isinstance(found, str) else "does not answer as an Orthanc"
            raise ValueError(f"{name} {what} after POST /instances")

    def copies_of(self, name: str, instances: Mapping[str, Mapping[str, Any]]) -> set[str]:
        """Return of which instances, given as our `/tools/bulk-content` has them, a peer has a file of its own.

        A peer that leads back to this server, or shares its database, names the very file (`FileUuid`) that we have.

        Raises
        ------
        ValueError, OSError, HTTPException, LoopbackError : it has ours, can't be asked, or does not answer as an Orthanc.
        """
        there = {one["ID"]: one.get("FileUuid") for one in self._content(name, instances.keys(), short=False)}
        if ours := sum(bool(uuid) and uuid == instances[key].get("FileUuid") for key, uuid in there.items()):
            raise ValueError(
                f"{name} leads back to this server, or shares its database: {ours} of {len(instances)} files are the same"
            )
        return {key for key, uuid in there.items() if uuid}

    def _content(self, name: str, instances: Collection[str], *, short: bool) -> list[dict[str, Any]]:
        keys, found = list(instances), list[dict[str, Any]]()
        for start in range(0, len(keys), INSTANCES_PER_QUESTION):
            some = keys[start : start + INSTANCES_PER_QUESTION]
            # Metadata is not needed here, and takes a quarter of the time.
            found += self._ask(name, {"Resources": some, "Short": short, "Metadata": False})
        return [one for one in found if one["ID"] in instances]

    def _ask(self, name: str, question: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the content of resources in a peer, by its `/tools/bulk-content`."""
        body, path = json.dumps(question).encode(), "/tools/bulk-content"
        status, _, content = self._http.request(self.settings(name), "POST", path, body, PEER_TIMEOUT_SECONDS)
        if status != http.HTTPStatus.OK:
            raise ValueError(f"{name} answers {status} when asked which instances it has")
        listed = _decoded(content)
        if not isinstance(listed, list) or not all(map(_is_content, listed)):
            raise ValueError(f"{name} does not answer as an Orthanc when asked which instances it has")
        return listed

    def settings(self, name: str) -> dict[str, Any]:
        """Return the URL, user, password and so on of a peer: those of the configuration, if Orthanc uses them.

        Raises
        ------
        OnlyOrthancCanAskError : Orthanc knows more than it shows, or than we can do.
        ValueError : Orthanc does not know it.
        """
        public, peer = self._public(name), self._configuration.get("OrthancPeers", {}).get(name)
        if isinstance(peer, list):
            peer = dict(zip(("Url", "Username", "Password"), peer, strict=False))
        if public.get("Pkcs11"):
            raise OnlyOrthancCanAskError(f"the key of {name} is in a PKCS#11 module, which only Orthanc can use")
        # A peer that was changed by PUT /peers/{id}, or lives in the database, is not what the configuration says.
        if peer is not None and _public_part({**peer, "Url": peer.get("Url") or peer.get("URL")}) == _public_part(
            public
        ):
            return {**peer, "Url": public["Url"]}
        if any(public.get(key) for key in ("Username", "HttpHeaders", "CertificateFile")):
            raise OnlyOrthancCanAskError(
                f"Orthanc does not tell the password of {name}: only of peers in its configuration it can be used"
            )
        return {"Url": public["Url"]}

    def _public(self, name: str) -> dict[str, Any]:
        public: dict[str, Any] = self._loopback.get("/peers?expand")
        if name not in public:
            raise ValueError(f"Orthanc does not know {name}")
        return dict(public[name])


def redirected(name: str, url: str, location: str) -> str:
    """Return what to say of a redirect: where to, without user, password or query, which may be secrets."""
    where = "no address"
    with contextlib.suppress(ValueError):
        there = urllib.parse.urlsplit(urllib.parse.urljoin(url, location))
        if location and there.netloc:
            where = one_line(f"{there.scheme}://{there.netloc.rpartition('@')[2]}{there.path.removesuffix('/system')}/")
    return (
        f"{name} redirects to {where}: what is sent there would be lost, for a POST that is redirected becomes a GET. "
        "Write the address that it leads to into OrthancPeers"
    )


def _raise_unless_orthanc(name: str, content: bytes) -> None:
    found = _decoded(content)
    if not isinstance(found, dict) or any(key not in found for key in SYSTEM_KEYS):
        html = content.lstrip()[:1] == b"<"
        what = "with a page of HTML (a login?)" if html else "with something that no Orthanc says"
        raise MisconfiguredError(f"{name} is no Orthanc: it answers GET /system {what}")


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _is_content(found: Any) -> bool:
    """Return whether this describes a resource, with the name of its file if it is an instance."""
    return isinstance(found, dict) and isinstance(found.get("ID"), str) and isinstance(found.get("FileUuid", ""), str)


def _public_part(peer: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what Orthanc shows of a peer too."""
    certificate, url = peer.get("CertificateFile") or "", str(peer.get("Url") or "")
    return url.rstrip("/"), peer.get("Username") or "", sorted(peer.get("HttpHeaders") or ()), certificate
