# SPDX-License-Identifier: AGPL-3.0-or-later
"""common/settings.py: the section `Scripts`, and to whom a token that opens everything may be sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import ModuleType

import pytest

ALLOWED = (
    "allowed: http:// with a loopback address of this machine and a port, as http://127.0.0.1:8043 or http://[::1]:8043"
)
ELSEWHERE = [
    "http://10.0.0.1:8043",
    "http://0.0.0.0:8043",
    "http://pacs.example:8043",
    "http://localhost:8043",  # whose address is written elsewhere
    "http://127.0.0.1.example.org:8043",
    "http://127.0.0.1@10.0.0.1:8043",
    "http://me:secret@127.0.0.1:8043",
    "http://127.1:8043",
    "http://127.0.0.999:8043",
    "http://2130706433:8043",
    "http://[::1%25eth0]x:8043",
    "https://127.0.0.1:8043",
    "http://127.0.0.1",
    "http://127.0.0.1:0",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:8043/orthanc",
    "http://127.0.0.1:8043?x",
    "http://127.0.0.1:8043#x",
    "http://127.0.0.1:8043\n",
    " http://127.0.0.1:8043",
    "127.0.0.1:8043",
    "",
]
HERE = ["http://127.0.0.1:8043", "http://127.0.0.1:8043/", "http://[::1]:1", "http://127.255.3.4:65535"]


@dataclasses.dataclass(frozen=True)
class Own:
    """Of a script."""

    number: int = 1


@pytest.mark.parametrize("url", HERE)
def test_loopback_may_have_an_address_on_this_machine(source: Callable[[str], ModuleType], url: str) -> None:
    settings = source("common.settings")
    configuration = {"Scripts": {"Loopback": {"Url": url}}, "Own": {"Number": 2}}
    assert settings.settings_of_all_scripts(configuration).loopback.url == url
    assert settings.read_settings(Own, "Own", configuration).number == 2


@pytest.mark.parametrize("url", ELSEWHERE)
def test_who_reads_its_own_section_hears_of_an_address_elsewhere(source: Callable[[str], ModuleType], url: str) -> None:
    settings = source("common.settings")
    with pytest.raises(settings.SettingsError, match=r"^Scripts\.Loopback\.Url") as caught:
        settings.read_settings(Own, "Own", {"Scripts": {"Loopback": {"Url": url}}})
    assert str(caught.value).endswith(ALLOWED)


def test_without_the_section_nothing_is_set(source: Callable[[str], ModuleType]) -> None:
    settings = source("common.settings")
    assert settings.settings_of_all_scripts({"Own": {}}).loopback.url is None


DATABASES = ["postgresql://u:p%40ss@host/db", "postgres://host:5432/db?sslmode=verify-full", "postgresql://u@a:1/db"]
NO_DATABASES = [
    "mysql://u:pa55@host/db",
    "host=pa55 dbname=db",
    "postgresql://u:pa55@host",
    "postgresql://u:pa55@ss@host/db",  # a part of the password would be taken for a host
    "postgresql://u:pa55/ss@host/db",
    "postgresql://u:1/pa55@host/db",
    "postgresql://u:1?pa55@host/db",
    "postgresql://u:pa55#1@host/db",
    "",
]


@pytest.mark.parametrize("url", DATABASES)
def test_a_database_is_a_url_of_postgresql(source: Callable[[str], ModuleType], url: str) -> None:
    database = source("common.database")
    found = database.database_of({"Scripts": {"Database": url, "Server": "A"}}, None)
    assert (found.url, found.server) == (url, "A")
    assert database.database_of({"Scripts": {"Database": url}}, "/own") is None, "a script's own folder wins"
    assert database.database_of({"Scripts": {"Database": url}}, None).server


@pytest.mark.parametrize("url", NO_DATABASES)
def test_what_is_no_url_of_postgresql_is_refused_and_not_shown(source: Callable[[str], ModuleType], url: str) -> None:
    settings = source("common.settings")
    with pytest.raises(settings.SettingsError, match=r"^Scripts\.Database") as caught:
        settings.read_settings(Own, "Own", {"Scripts": {"Database": url}})
    assert "pa55" not in str(caught.value)
    assert "postgresql://USER:PASSWORD@HOST/DATABASE" in str(caught.value) or not url


@pytest.mark.parametrize("name", ["two words", "a\nb", "x" * 101, ""])
def test_the_name_of_a_server_is_one_word(source: Callable[[str], ModuleType], name: str) -> None:
    settings = source("common.settings")
    with pytest.raises(settings.SettingsError, match=r"^Scripts\.Server"):
        settings.read_settings(Own, "Own", {"Scripts": {"Server": name}})
