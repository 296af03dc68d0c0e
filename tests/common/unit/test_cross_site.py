# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/cross_site.py: real headers of programs, browsers, players, previews and robots, each with its verdict."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.cross_site import as_command, why_refused

HOST = "pacs.hospital.example:8042"
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
)
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
SAFARI = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15"
OLD_SAFARI = SAFARI.replace("17.5", "15.6")
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 "
    "Mobile/15E148 Safari/604.1"
)
PAGE = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"
IMAGE = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
TYPED = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-User": "?1", "Sec-Fetch-Dest": "document"}
FOREIGN = "https://evil.example/page.html"


def _program(agent: str, **more: str) -> dict[str, str]:
    return {"User-Agent": agent, "Accept": "*/*", **more}


# Sent on purpose: by a person at a command line or in a program, or by a browser that says so.
ON_PURPOSE: dict[str, dict[str, str]] = {
    "curl": _program("curl/7.88.1"),
    "curl for JSON": _program("curl/8.5.0", Accept="application/json"),
    "wget": _program("Wget/1.21.3", **{"Accept-Encoding": "identity", "Connection": "Keep-Alive"}),
    "HTTPie": _program("HTTPie/3.2.2"),
    "python-requests": _program("python-requests/2.31.0", **{"Accept-Encoding": "gzip, deflate"}),
    "httpx": _program("python-httpx/0.27.0"),
    "aiohttp": _program("Python/3.11 aiohttp/3.9.5"),
    "urllib": {"User-Agent": "Python-urllib/3.11", "Accept-Encoding": "identity", "Connection": "close"},
    "urllib3": _program("python-urllib3/2.2.1"),
    "http.client, which says nothing": {"Accept-Encoding": "identity"},
    "Orthanc's Lua and libcurl, which say nothing": {"Accept": "*/*"},
    "Go": {"User-Agent": "Go-http-client/1.1", "Accept-Encoding": "gzip"},
    "Java, HttpURLConnection": _program("Java/17.0.10", Accept="text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"),
    "Java, HttpClient": {"User-Agent": "Java-http-client/17.0.10", "Connection": "Upgrade, HTTP2-Settings"},
    "Apache HttpClient": {"User-Agent": "Apache-HttpClient/4.5.14 (Java/11.0.22)", "Accept-Encoding": "gzip,deflate"},
    "OkHttp": {"User-Agent": "okhttp/4.12.0", "Accept-Encoding": "gzip"},
    "Windows PowerShell": {
        "User-Agent": "Mozilla/5.0 (Windows NT; Windows NT 10.0; en-US) WindowsPowerShell/5.1.19041.4522",
        "Connection": "Keep-Alive",
    },
    "PowerShell": {"User-Agent": "Mozilla/5.0 (Linux; Ubuntu 22.04.4 LTS; en-US) PowerShell/7.4.2"},
    ".NET HttpClient, which says nothing": {},
    "Node.js http, which says nothing": {"Connection": "keep-alive"},
    "Node.js fetch": _program("node", **{"Sec-Fetch-Mode": "cors", "Accept-Language": "*"}),
    "axios": _program("axios/1.7.2", Accept="application/json, text/plain, */*"),
    "node-fetch": _program("node-fetch/1.0 (+https://github.com/bitinn/node-fetch)"),
    "got": {"User-Agent": "got (https://github.com/sindresorhus/got)", "Accept-Encoding": "gzip, deflate, br"},
    "Postman": _program("PostmanRuntime/7.39.0", **{"Postman-Token": "5f0c", "Cache-Control": "no-cache"}),
    "Insomnia": _program("insomnia/9.2.0"),
    "Ruby": _program("Ruby", **{"Accept-Encoding": "gzip;q=1.0,deflate;q=0.6,identity;q=0.3"}),
    "Perl": {"User-Agent": "libwww-perl/6.68", "TE": "deflate,gzip;q=0.3"},
    "PHP, Guzzle": {"User-Agent": "GuzzleHttp/7"},
    "Rust, reqwest, which says nothing": {"Accept": "*/*"},
    "a program that names this server as referer": _program("curl/7.88.1", Referer=f"http://{HOST}/app/explorer.html"),
    "Chrome, typed": {"User-Agent": CHROME, "Accept": PAGE, "Upgrade-Insecure-Requests": "1", **TYPED},
    "Firefox, typed": {"User-Agent": FIREFOX, "Accept": PAGE, **TYPED},
    "Safari, typed": {"User-Agent": SAFARI, "Accept": PAGE, "Sec-Fetch-Site": "none", "Sec-Fetch-Dest": "document"},
    "Chrome, fetch() on a page of this server": {
        **{"User-Agent": CHROME, "Accept": "*/*", "Referer": f"http://{HOST}/ui/app/"},
        **{"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
    },
    "Firefox, a link on a page of this server": {
        **{"User-Agent": FIREFOX, "Accept": PAGE, "Referer": f"http://{HOST}/app/explorer.html"},
        **{"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    },
    "behind a proxy that passes the host on": {
        **{"User-Agent": CHROME, "X-Forwarded-Host": "pacs.example, inner", "Referer": "https://pacs.example/ui/"},
        **{"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "empty"},
    },
}

# Nobody asked for this, or nobody can tell.
NOT_ON_PURPOSE: dict[str, dict[str, str]] = {
    "Chrome, <img> of another site": {
        **{"User-Agent": CHROME, "Accept": IMAGE, "Referer": "https://evil.example/"},
        **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    },
    "Chrome, <img> of another site, over plain HTTP": {"User-Agent": CHROME, "Accept": IMAGE},
    "Chrome, <img> on a page of this server": {
        **{"User-Agent": CHROME, "Accept": IMAGE, "Referer": f"http://{HOST}/report"},
        **{"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    },
    "Chrome, a link of another site": {
        **{"User-Agent": CHROME, "Accept": PAGE, "Referer": "https://evil.example/", "Sec-Fetch-Site": "cross-site"},
        **{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-User": "?1", "Sec-Fetch-Dest": "document"},
    },
    "Chrome, a page of another host of the hospital": {
        **{"User-Agent": CHROME, "Accept": "*/*", "Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "empty"},
        **{"Origin": "https://intranet.hospital.example"},
    },
    "Chrome, prefetch": {
        **{"User-Agent": CHROME, "Accept": PAGE, "Sec-Purpose": "prefetch", "Purpose": "prefetch"},
        **{"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "document"},
    },
    "Chrome, prerender while typing": {
        "User-Agent": CHROME,
        "Sec-Purpose": "prefetch;prerender",
        "Accept": PAGE,
        **TYPED,
    },
    "Chrome, page preview": {
        "User-Agent": CHROME,
        "Accept": PAGE,
        "Sec-Purpose": "prefetch;anonymous-client-ip",
        **TYPED,
    },
    "Firefox, prefetch": {"User-Agent": FIREFOX, "X-Moz": "prefetch", "Accept": PAGE, "Sec-Fetch-Site": "same-origin"},
    "Safari, top hit preloaded": {
        "User-Agent": SAFARI,
        "X-Purpose": "preview",
        "Purpose": "preview",
        "Accept": PAGE,
        **TYPED,
    },
    "Chrome, <audio> of another site": {
        **{"User-Agent": CHROME, "Accept": "*/*", "Range": "bytes=0-", "Referer": "https://evil.example/"},
        **{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "audio"},
    },
    "Firefox, <audio>, over plain HTTP": {
        **{"User-Agent": FIREFOX, "Range": "bytes=0-", "Accept-Encoding": "identity"},
        "Accept": "audio/webm,audio/ogg,audio/wav,audio/*;q=0.9,application/ogg;q=0.7,video/*;q=0.6,*/*;q=0.5",
    },
    "Chrome, style sheet": {"User-Agent": CHROME, "Accept": "text/css,*/*;q=0.1", "Sec-Fetch-Site": "same-origin"},
    "iPhone, <audio src>": {
        **{"User-Agent": "AppleCoreMedia/1.0.0.21F79 (iPhone; U; CPU OS 17_5 like Mac OS X; de_de)", "Accept": "*/*"},
        **{"Referer": FOREIGN, "X-Playback-Session-Id": "4B7C", "Range": "bytes=0-1", "Accept-Encoding": "identity"},
    },
    "iPhone, <audio src>, without a referer": {
        **{"User-Agent": "AppleCoreMedia/1.0.0.21F79 (iPhone; U; CPU OS 17_5 like Mac OS X; de_de)", "Accept": "*/*"},
    },
    "Android, video": _program("stagefright/1.2 (Linux;Android 10)"),
    "Android, an app": _program("Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8 Build/UD1A)"),
    "ExoPlayer": _program("MyApp/1.0 (Linux;Android 14) ExoPlayerLib/2.19.1", Range="bytes=0-"),
    "VLC": _program("VLC/3.0.20 LibVLC/3.0.20", Range="bytes=0-"),
    "ffmpeg": _program("Lavf/60.16.100", Range="bytes=0-", **{"Icy-MetaData": "1"}),
    "macOS, an app": _program("NetworkingExtension/8618.2.12 Network/4277.121.2 iOS/17.5"),
    "iOS, an app": _program("Mail/3774.600.62 CFNetwork/1496.0.7 Darwin/23.5.0"),
    "Safari before 16.4, typed": {"User-Agent": OLD_SAFARI, "Accept": PAGE},
    "iPhone, over plain HTTP": {"User-Agent": IPHONE, "Accept": PAGE},
    "Chrome, typed, over plain HTTP": {"User-Agent": CHROME, "Accept": PAGE, "Upgrade-Insecure-Requests": "1"},
    "Chrome, a link of another site, over plain HTTP": {
        "User-Agent": CHROME,
        "Accept": PAGE,
        "Referer": "http://evil/",
    },
    "Internet Explorer": {
        "User-Agent": "Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko",
        "Accept": PAGE,
    },
    "Opera 12": {"User-Agent": "Opera/9.80 (Windows NT 6.1) Presto/2.12.388 Version/12.18", "Accept": PAGE},
    "WhatsApp": _program("WhatsApp/2.24.11.78 A"),
    "Signal": _program("WhatsApp/2"),
    "Slack": {
        "User-Agent": "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
        "Accept": "*/*",
        "Range": "bytes=0-32768",
    },
    "Slack, images": _program("Slack-ImgProxy (+https://api.slack.com/robots)"),
    "Telegram": _program("TelegramBot (like TwitterBot)"),
    "Discord": _program("Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)"),
    "Facebook": _program(
        "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)", Range="bytes=0-524287"
    ),
    "Meta": _program("meta-externalagent/1.1 (+https://developers.facebook.com/docs/sharing/webmasters/crawler)"),
    "iMessage": _program(
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_11_1) AppleWebKit/601.2.4 (KHTML, like Gecko) Version/9.0.1 Safari/601.2.4 "
        "facebookexternalhit/1.1 Facebot Twitterbot/1.0"
    ),
    "Twitter": _program("Twitterbot/1.0"),
    "LinkedIn": _program("LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)"),
    "Skype and Teams": _program(
        "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5 skype-url-preview@microsoft.com"
    ),
    "Teams, Outlook": _program("Mozilla/5.0 (Windows NT 10.0; Win64; x64; ms-office; MSOffice 16)"),
    "Microsoft Office": _program("Microsoft Office/16.0 (Windows NT 10.0; Microsoft Word 16.0.17628; Pro)"),
    "Matrix": _program("Synapse (bot; +https://github.com/matrix-org/synapse)"),
    "Mattermost": _program("Mattermost-Bot/1.1"),
    "Viber": _program("Viber/22.6.0.0 CFNetwork/1496 Darwin/23.5.0"),
    "Pinterest": _program("Pinterest/0.2 (+https://www.pinterest.com/bot.html)"),
    "Googlebot": _program("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"),
    "Googlebot that renders": {
        "User-Agent": "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; Googlebot/2.1; "
        "+http://www.google.com/bot.html) Chrome/126.0.0.0 Safari/537.36",
        **TYPED,
    },
    "bingbot": _program("Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)"),
    "BingPreview": {"User-Agent": f"{CHROME} BingPreview/1.0b", **TYPED},
    "Yahoo": _program("Mozilla/5.0 (compatible; Yahoo! Slurp; http://help.yahoo.com/help/us/ysearch/slurp)"),
    "Baidu": _program("Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)"),
    "Lighthouse": {"User-Agent": f"{CHROME} Chrome-Lighthouse", **TYPED},
    "a browser without a screen": {"User-Agent": CHROME.replace("Chrome/", "HeadlessChrome/"), **TYPED},
    "a monitor": _program("check_http/v2.3.3 (monitoring-plugins 2.3.3)"),
    "Prometheus": _program("Prometheus/2.52.0"),
    "Kubernetes": _program("kube-probe/1.29"),
    "curl led by a page": _program("curl/7.88.1", Referer=FOREIGN),
    "curl with an origin": _program("curl/7.88.1", Origin="https://evil.example"),
    "curl from nowhere": _program("curl/7.88.1", Origin="null"),
    "curl across sites": _program("curl/7.88.1", **{"Sec-Fetch-Site": "cross-site"}),
    "curl, a part of it": _program("curl/7.88.1", Range="bytes=0-99"),
    "curl for a picture": _program("curl/7.88.1", Accept="image/png"),
    "curl ahead of time": _program("curl/7.88.1", Purpose="prefetch"),
    "curl that is a robot": _program("curl/7.88.1 (my-crawler)"),
    "Chrome, typed, with a referer": {"User-Agent": CHROME, "Accept": PAGE, "Referer": FOREIGN, **TYPED},
    "Chrome, typed, with an origin": {"User-Agent": CHROME, "Accept": PAGE, "Origin": "http://[::1", **TYPED},
    "a name that nobody knows": _program("Something/1.0"),
    "a name that begins like a program's": _program("curlew/1.0"),
}


def in_lower_case(headers: dict[str, str]) -> dict[str, str]:
    return {"host": HOST, **{name.lower(): value for name, value in headers.items()}}


@pytest.mark.parametrize("name", ON_PURPOSE)
def test_a_get_that_was_sent_on_purpose_may_act(name: str) -> None:
    assert why_refused("GET", in_lower_case(ON_PURPOSE[name]), has_body=False) is None


@pytest.mark.parametrize("name", NOT_ON_PURPOSE)
def test_a_get_that_nobody_asked_for_may_not_act(name: str) -> None:
    found = why_refused("GET", in_lower_case(NOT_ON_PURPOSE[name]), has_body=False)
    assert found is not None
    assert found[0] == 403


JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"User-Agent": "curl/7.88.1", **FORM}, None),  # what curl -d says
        ({"User-Agent": "curl/7.88.1"}, None),
        ({}, None),
        ({"User-Agent": "Something/1.0", **JSON}, None),
        (
            {"User-Agent": "Mozilla/5.0 (Windows NT; Windows NT 10.0; en-US) WindowsPowerShell/5.1.19041.4522", **FORM},
            None,
        ),
        ({"User-Agent": CHROME, **JSON, "Origin": f"http://{HOST}", "Sec-Fetch-Site": "same-origin"}, None),
        ({"User-Agent": CHROME, **JSON, "Origin": f"http://{HOST.upper()}"}, None),  # plain HTTP
        ({"User-Agent": CHROME, **JSON, "Origin": "https://behind.a.proxy", "Sec-Fetch-Site": "same-origin"}, None),
        ({"User-Agent": CHROME, **JSON, "Origin": "https://a.proxy", "X-Forwarded-Host": "a.proxy:443"}, None),
        ({"User-Agent": CHROME, **FORM, "Origin": f"http://{HOST}"}, 415),
        ({"User-Agent": CHROME, "Content-Type": "text/plain", "Origin": f"http://{HOST}"}, 415),
        ({"User-Agent": CHROME, **JSON, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"User-Agent": CHROME, **JSON, "Sec-Fetch-Site": "same-site"}, 403),
        ({"User-Agent": CHROME, **JSON, "Origin": "https://evil.example"}, 403),
        ({"User-Agent": CHROME, **JSON, "Origin": "null"}, 403),
        ({"User-Agent": CHROME, **JSON, "Origin": "http://[::1"}, 403),
        ({"User-Agent": CHROME, **JSON, "Origin": f"http://{HOST}@evil.example"}, 403),
        ({"User-Agent": CHROME, **JSON, "Origin": f"http://{HOST}.evil.example"}, 403),
        ({"User-Agent": CHROME, **JSON, "Origin": "http://evil.example", "Sec-Fetch-Site": "none"}, 403),
        ({"User-Agent": FIREFOX, **JSON, "Referer": FOREIGN}, 403),  # browsers that send no Origin
        ({"User-Agent": "curl/7.88.1", **JSON, "Origin": "https://evil.example"}, 403),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_other_methods_come_from_this_servers_pages_or_from_programs(
    method: str, headers: dict[str, str], status: int | None
) -> None:
    found = why_refused(method, in_lower_case(headers), has_body=True)
    assert (found and found[0]) == status


NAMES = [
    "host",
    "origin",
    "referer",
    "sec-fetch-site",
    "sec-fetch-dest",
    "x-forwarded-host",
    "user-agent",
    "accept",
    "content-type",
]
VALUES = st.text(max_size=60) | st.text(st.sampled_from("http://[]:@?#\\%.8042 \t\0é,"), max_size=40)


@pytest.mark.parametrize("destination", ["iframe", "script", "embed", "report"])
def test_what_a_page_of_this_server_loads_by_itself_may_not_act(destination: str) -> None:
    headers = {"host": "h:1", "user-agent": "Mozilla/5.0", "accept": "text/html", "sec-fetch-site": "same-origin"}
    assert why_refused("GET", {**headers, "sec-fetch-dest": "document"}, has_body=False) is None
    found = why_refused("GET", {**headers, "sec-fetch-dest": destination}, has_body=False)
    assert found is not None
    assert found[0] == 403


@given(
    st.dictionaries(st.sampled_from(NAMES), VALUES), st.sampled_from(["GET", "POST", "PUT", "DELETE"]), st.booleans()
)
def test_malformed_headers_are_a_verdict_never_an_error(headers: dict[str, str], method: str, has_body: bool) -> None:
    found = why_refused(method, headers, has_body=has_body)
    assert found is None or found[0] in (403, 415)


@given(st.sampled_from(["origin", "referer"]), VALUES)
def test_an_address_that_is_not_of_this_host_never_passes(name: str, value: str) -> None:
    found: Any = why_refused("GET", {"host": HOST, "user-agent": "curl/7.88.1", name: value}, has_body=False)
    assert (found is not None) or value.strip().lower().partition("://")[2].startswith(HOST)


def test_the_command_can_be_pasted_whatever_the_host_says() -> None:
    assert as_command({"host": HOST}, "/a?b=c") == f"curl -u USER 'http://{HOST}/a?b=c'"
    assert as_command({"host": "x'; rm -rf / #\n"}, "/a") == "curl -u USER 'http://x;rm-rf/#/a'"
