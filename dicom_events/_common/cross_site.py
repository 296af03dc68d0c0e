# SPDX-License-Identifier: AGPL-3.0-or-later
# Built by `make build` from src/common/cross_site.py: edit that, never this file.
"""Who may act: people on this server's own pages, and programs; no page of another site, and nothing that loads links by itself.

Headers alone decide, in lower case as Orthanc gives them, before anything else of a request is looked at.
"""

import re
from collections.abc import Mapping

# What a person's command line, or a library in a person's program, calls itself. Many libraries say nothing at all.
PROGRAM = re.compile(
    r"(curl|libcurl|wget2?|httpie|xh|aria2|lwp-request|libwww-perl|python-requests|python-httpx|python-urllib3?"
    r"|python/[0-9.]+ aiohttp|aiohttp|httpx|go-http-client|resty|go-resty|java|java-http-client|apache-httpclient"
    r"|apache-httpasyncclient|okhttp|jersey|ktor-client|axios|got|node|node-fetch|undici|deno|bun|superagent|node-superagent"
    r"|postmanruntime|insomnia|bruno|hoppscotch|thunder client|powershell|restsharp|guzzlehttp|php-curl-class|ruby|faraday"
    r"|rest-client|httparty|reqwest|ureq|hyper|dart|luasocket|luasocket [0-9.]+|libcurl-agent|rcurl|httr2?|matlab)"
    r"([/ (].*)?"
    r"|mozilla/5\.0 \([^()]*\) (windows)?powershell/[0-9.]+",
    re.IGNORECASE,
)
ROBOT = re.compile(
    r"bot\b|bot/|crawl|spider|slurp|preview|externalhit|externalagent|lighthouse|headless|pagespeed|prerender|compatible;"
    r"|google-|googleother|feedfetcher|mediapartners|scan|monitor|whatsapp|skype|embed",
    re.IGNORECASE,
)
AHEAD_OF_TIME = ("sec-purpose", "purpose", "x-purpose", "x-moz")  # prefetching, prerendering, previewing
MEDIA = re.compile(r"\b(image|video|audio|font)/|^text/css", re.IGNORECASE)
BROWSER = re.compile("(mozilla|opera)/", re.IGNORECASE)
OWN_PAGES = ("same-origin", "none")  # a page of this server; what a person typed, or chose from the bookmarks
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")  # what any page can send unasked


def why_refused(method: str, headers: Mapping[str, str], *, has_body: bool) -> tuple[int, str] | None:
    """Return why a request that acts is refused, as a status and a reason; None: it was sent on purpose.

    A GET is what any page, mail or chat can make a browser send, or what is loaded ahead of time: it is accepted for a
    program that says what it is (or nothing), and for a browser that says that this server's own page or a person asked.
    Browsers say so over HTTPS and on localhost; over plain HTTP they can't be distinguished from one that another page leads.
    """
    if sign := _sign_of_another_site(method, headers):
        return 403, sign
    if method == "GET":
        return (403, sign) if (sign := _sign_of_a_link(headers)) else None
    mime = headers.get("content-type", "").partition(";")[0].strip().lower()
    if _is_browser(headers) and (mime in FORMS or (has_body and mime != "application/json")):
        return 415, "From a browser the body must be application/json"
    return None


def _sign_of_another_site(method: str, headers: Mapping[str, str]) -> str:
    site, origin, referer = (headers.get(name) for name in ("sec-fetch-site", "origin", "referer"))
    if site is not None and site.strip().lower() not in OWN_PAGES:
        return f"This comes from another site's page (Sec-Fetch-Site: {site[:40]})"
    if site is not None and site.strip().lower() == "same-origin" and method != "GET":
        return ""  # the browser's own word, also behind a proxy that puts another Host in
    if origin is not None and not _is_ours(origin, headers):
        return f"This comes from another site's page (Origin: {origin[:100]})"
    if referer is not None and not _is_ours(referer, headers) and (origin is None or method == "GET"):
        return f"This comes from another site's page (Referer: {referer[:100]})"
    return ""


def _is_ours(address: str, headers: Mapping[str, str]) -> bool:
    """Return whether an address is of this server, as whoever asked calls it. Addresses that are none are not."""
    named = [headers.get("host", ""), *headers.get("x-forwarded-host", "").split(",")]
    hosts = {_without_port(host.strip().lower()) for host in named} - {""}
    scheme, _, rest = address.strip().lower().partition("://")
    return scheme in ("http", "https") and _without_port(re.split(r"[/?#\\]", rest, maxsplit=1)[0]) in hosts


def _without_port(host: str) -> str:
    """Return a host without the port that its scheme has anyway."""
    return re.sub(r":(80|443)?\Z", "", host)


def _sign_of_a_link(headers: Mapping[str, str]) -> str:
    """Return what shows that a GET was not asked for by a person or a person's program; empty: nothing does."""
    agent = headers.get("user-agent", "")
    accept, destination = headers.get("accept", ""), headers.get("sec-fetch-dest", "document").strip().lower()
    if ahead := next((name for name in AHEAD_OF_TIME if name in headers), None):
        return f"This is loaded ahead of time, or as a preview ({ahead}: {headers[ahead][:40]})"
    if "range" in headers:
        return "This asks for a part of a file, as a player of media does (Range)"
    if destination not in ("document", "empty") or (MEDIA.search(accept) and "text/html" not in accept.lower()):
        return "This asks for a picture, a sound, or a part of a page (Accept, Sec-Fetch-Dest)"
    if ROBOT.search(agent):
        return f"This comes from a robot or a preview (User-Agent: {agent[:100]})"
    if "sec-fetch-site" in headers or not agent.strip() or PROGRAM.fullmatch(agent.strip()):
        return ""
    if BROWSER.match(agent):
        return "A browser that does not say that a person asked for it (Sec-Fetch-Site) must not act by a link"
    return f"Who asks for this is not known as a command line or a library of HTTP (User-Agent: {agent[:100]})"


def _is_browser(headers: Mapping[str, str]) -> bool:
    agent = headers.get("user-agent", "")
    return BROWSER.match(agent) is not None and PROGRAM.fullmatch(agent) is None


def as_command(headers: Mapping[str, str], path: str) -> str:
    """Return the command line that does on purpose what a GET asked for, for a person; `path` is encoded as in a URL."""
    address = f"http://{headers.get('host', '127.0.0.1:8042')}{path}"
    return f"curl -u USER '{re.sub('[^!-&(-~]', '', address)}'"  # no character of it ends the quotes
