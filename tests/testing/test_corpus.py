# SPDX-License-Identifier: AGPL-3.0-or-later
"""The real files that tests store are found, each once."""

from pathlib import Path

from tests.corpus import corpus_files, is_dicom


def test_corpus_has_the_files_of_each_package_that_carries_some() -> None:
    files = corpus_files()
    names = [name for name, _ in files]
    assert names == sorted(set(names))
    assert {name.split("/")[0] for name in names} >= {"pydicom", "data_store", "deid_data", "nibabel"}
    assert len(names) >= 250


def test_corpus_has_no_content_twice() -> None:
    contents = [path.read_bytes() for _, path in corpus_files()]
    assert len(set(contents)) == len(contents)


def test_files_without_a_preamble_are_known() -> None:
    names = {name for name, _ in corpus_files()}
    assert "pydicom/data/test_files/ExplVR_LitEndNoMeta.dcm" in names


def test_a_text_is_no_dicom_file() -> None:
    assert not is_dicom(Path(__file__))
