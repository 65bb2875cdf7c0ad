"""Shared terms: every reason has a text, and numbers agree with their nouns."""

import pytest

from xray.vocabulary import REASON_TEXT, SKIP_TEXT, Reason, SkipReason, count, describe_skipped


def test_every_reason_has_a_text():
    assert set(REASON_TEXT) == set(Reason)
    assert set(SKIP_TEXT) == set(SkipReason)


@pytest.mark.parametrize(
    ("reason", "number", "text"),
    [
        ("not an image", 2, "2 files that are not images"),
        ("not an image", 1, "1 file that is not an image"),
        ("hidden", 1200, "1,200 hidden files and folders"),
        ("CT Image Storage", 3, "3 DICOM files that are not radiographs (CT Image Storage)"),
    ],
)
def test_skipped_files_are_described_by_number_and_reason(reason, number, text):
    assert describe_skipped(reason, number) == text


def test_numbers_agree_with_their_nouns():
    assert [count(1, "batch"), count(2, "batch"), count(1000, "image")] == ["1 batch", "2 batches", "1,000 images"]
    assert [count(1, "epoch"), count(2, "epoch"), count(2, "study")] == ["1 epoch", "2 epochs", "2 studies"]
