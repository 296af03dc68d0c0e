# SPDX-License-Identifier: AGPL-3.0-or-later
"""forwarding: deliveries can be read from the newest on, page by page, as a person looks at them."""

from __future__ import annotations

from typing import Any

from tests.forwarding.unit.fake_forwarding import NAME, Forwarding

NEWEST = 2**53 - 1  # the largest number that JavaScript knows exactly


def page(forwarding: Forwarding, **query: object) -> Any:
    answer = forwarding.standin.http(
        "GET", f"{NAME}/deliveries", get={name: str(value) for name, value in query.items()}
    )
    assert answer.status == 200, answer.text
    return answer.json()


def test_a_page_before_a_row_has_the_newest_first_and_leads_to_the_older_ones(forwarding: Forwarding) -> None:
    forwarding.start()
    forwarding.script.post(f"{NAME}/destinations/PACS/pause")
    for number in range(5):
        forwarding.receive(f"a{number}", str(number))
    oldest_first = [row["ID"] for row in page(forwarding)["Items"]]
    first = page(forwarding, before=NEWEST, limit=3)
    assert [row["ID"] for row in first["Items"]] == oldest_first[::-1][:3]
    assert first["Next"] == oldest_first[2]
    second = page(forwarding, before=first["Next"], limit=3)
    assert [row["ID"] for row in second["Items"]] == oldest_first[1::-1]
    assert (second["Next"], second["Total"]) == (None, 5)
    between = page(forwarding, before=oldest_first[4], since=oldest_first[1])
    assert [row["ID"] for row in between["Items"]] == [oldest_first[3], oldest_first[2]]
