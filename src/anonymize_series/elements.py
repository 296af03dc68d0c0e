# SPDX-License-Identifier: AGPL-3.0-or-later
"""The elements of a data set: their values as texts, their UIDs, and the file that they become."""

import inspect
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

UID_ROOT_OF_THE_STANDARD = "1.2.840.10008."  # UIDs of SOP classes, transfer syntaxes, …: the same everywhere
KEYWORDS_OF_KINDS = re.compile("(SOPClass|TransferSyntax|ContextGroup|Mapping|CodingScheme|ImplementationClass).*UID")
KEPT_META_ELEMENTS = (0x0000, 0x0001, 0x0002, 0x0003, 0x0010, 0x0012, 0x0013)  # others name a sender (PS3.10 7.1)


def text_of(dataset: Any, keyword: str) -> str:
    """Return a value as text, "" if it is not there."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def names_an_instance(element: Any, value: str) -> bool:
    """Return whether a UID names an instance of something, and not what the standard or a maker calls a kind of things."""
    return (
        bool(value) and not value.startswith(UID_ROOT_OF_THE_STANDARD) and not KEYWORDS_OF_KINDS.search(element.keyword)
    )


def elements_of(dataset: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Yield each element, in sequences too: its path, the data set that holds it, itself."""
    for element in dataset:
        yield (*path, int(element.tag)), dataset, element
        if element.VR == "SQ":
            for number, item in enumerate(element.value or ()):
                yield from elements_of(item, (*path, int(element.tag), number))


def values_of(element: Any) -> list[str]:
    """Return the values of an element as texts."""
    value = element.value
    if value is None or element.VR == "SQ" or isinstance(value, bytes):
        return []
    if isinstance(value, str) or not hasattr(value, "__iter__") or (element.VR == "PN" and element.VM <= 1):
        return [str(value)]
    return [str(each) for each in value]


def map_uids(dataset: Any, change: Callable[[Any, str], str], original: Any = None) -> None:
    """Replace the UIDs that name instances: by what `change` makes of each, or of the one at its path in the original."""
    before = {path: element for path, _, element in elements_of(original)} if original is not None else None
    for path, holder, element in list(elements_of(dataset)):
        source = element if before is None else before.get(path)
        if element.VR != "UI" or source is None:
            continue
        new = [change(source, value) if names_an_instance(source, value) else value for value in values_of(source)]
        if len(values_of(element)) or before is None:
            holder[element.tag].value = new if len(new) != 1 else new[0]


def written(dataset: Any) -> bytes:
    """Return the file of a data set; its preamble is empty, for that can hold anything (PS3.10 7.1)."""
    dataset.preamble = b"\0" * 128
    for tag in [tag for tag in dataset.file_meta.keys() if tag.element not in KEPT_META_ELEMENTS]:  # noqa: SIM118
        del dataset.file_meta[tag]
    buffer = io.BytesIO()
    whole_file = "enforce_file_format" in inspect.signature(dataset.save_as).parameters  # from pydicom 3 on
    dataset.save_as(buffer, **({"enforce_file_format": True} if whole_file else {"write_like_original": False}))
    return buffer.getvalue()
