"""Which images of a study count, and what follows for its score and status."""

from dataclasses import replace

import pytest

from db.assessment import MOST_COMPARED, StudyImage, assess, image_states
from xray.thresholds import Scope
from xray.vocabulary import ImageState, StudyStatus

SCOPE = Scope(frozenset({"HAND", "WRIST"}), frozenset({"CR", "DX"}))
PICTURES = [bytes([10 * number] * 256) for number in range(20)]


def image(probability: float | None = 0.2, number: int = 0, **attributes: object) -> StudyImage:
    """Return an image that shows the picture of a number; None for a probability makes it a failure."""
    content, picture = (None, None) if probability is None else (number, PICTURES[number])
    made = StudyImage("HAND", "DX", None, None, None, "aaaa....", 100, True, probability, content, picture)
    return replace(made, **attributes)  # type: ignore[arg-type]


def states(*images: StudyImage) -> list[ImageState]:
    return image_states(images, SCOPE)


def test_the_score_is_the_mean_of_the_images_beside_the_highest_of_them() -> None:
    found = assess([image(0.2, 0), image(0.8, 1)], SCOPE, 0.5)

    assert (found.status, found.score, found.highest, found.flagged) == (StudyStatus.SCORED, 0.5, 0.8, True)
    assert (found.images, found.failed) == (2, 0)


def test_a_study_is_pending_until_all_its_images_are_processed() -> None:
    found = assess([image(0.9), image(None, processed=False), image(None)], SCOPE, 0.5)

    assert (found.status, found.score, found.highest, found.flagged) == (StudyStatus.PENDING, None, None, False)
    assert (found.images, found.failed) == (3, 1)


def test_files_of_equal_bytes_count_once() -> None:
    found = assess([image(0.2, 0), image(0.8, 1), image(0.8, 1), image(0.8, 1)], SCOPE, 0.5)

    assert (found.score, found.images) == (0.5, 4)


def test_of_copies_in_other_bytes_the_largest_file_counts() -> None:
    small, large = image(0.3, 0, size=10), image(0.1, 0, size=1000, content=7)

    assert states(small, large) == [ImageState.COPY, ImageState.SCORED]
    assert assess([small, large], SCOPE, 0.5).score == 0.1


def test_a_copy_of_equal_size_that_was_found_later_does_not_count() -> None:
    assert states(image(0.3, 0), image(0.1, 0, content=7)) == [ImageState.SCORED, ImageState.COPY]


def test_contents_from_before_pictures_were_stored_count_each() -> None:
    assert states(image(0.3, 0, picture=None), image(0.1, 1, picture=None)) == [ImageState.SCORED] * 2


def test_of_more_images_than_any_examination_has_only_equal_bytes_are_found() -> None:
    many = [image(0.1, 0, content=number, picture=None) for number in range(MOST_COMPARED)]
    found = states(*many, image(0.1, 0, content=1000), image(0.1, 0, content=1001), image(0.1, 0, content=3))

    assert found == [ImageState.SCORED] * (MOST_COMPARED + 2) + [ImageState.COPY]


@pytest.mark.parametrize(
    ("raw", "finished", "state"),
    [
        ({}, {}, ImageState.FOR_PROCESSING),
        ({"view": "PA"}, {"view": "PA"}, ImageState.FOR_PROCESSING),
        ({"view": None}, {"view": "PA"}, ImageState.FOR_PROCESSING),
        ({"view": "LAT"}, {"view": "LL"}, ImageState.FOR_PROCESSING),
        ({"view": "DP"}, {"view": "PA"}, ImageState.FOR_PROCESSING),
        ({"laterality": "U"}, {"laterality": "R"}, ImageState.FOR_PROCESSING),
        ({"view": "TUNNEL"}, {"view": "PA"}, ImageState.SCORED),
        ({}, {"intent": "FOR PRESENTATION"}, ImageState.FOR_PROCESSING),
        ({"view": "LL"}, {"view": "PA"}, ImageState.SCORED),
        ({"laterality": "L"}, {"laterality": "R"}, ImageState.SCORED),
        ({"body_part": "WRIST"}, {}, ImageState.SCORED),
        ({}, {"body_part": "CHEST"}, ImageState.SCORED),
        ({}, {"intent": "FOR PROCESSING"}, ImageState.SCORED),
    ],
)
def test_an_image_for_processing_counts_unless_another_shows_the_same_view_worked_up(
    raw: dict[str, str], finished: dict[str, str], state: ImageState
) -> None:
    found = states(image(0.9, 0, **{"intent": "FOR PROCESSING", **raw}), image(0.1, 1, **finished))

    assert found[0] is state


def test_a_damaged_image_for_processing_is_no_loss_beside_the_finished_one() -> None:
    found = assess([image(None, intent="FOR PROCESSING"), image(0.1, 1)], SCOPE, 0.5)

    assert (found.status, found.score) == (StudyStatus.SCORED, 0.1)


def test_a_damaged_finished_image_leaves_the_study_incomplete_though_the_raw_one_was_read() -> None:
    found = assess([image(0.1, 0, intent="FOR PROCESSING"), image(None), image(0.2, 1, view="LL")], SCOPE, 0.5)

    assert found.status is StudyStatus.INCOMPLETE


def test_images_of_other_modalities_or_parts_do_not_count_and_alone_are_out_of_scope() -> None:
    angiogram, chest, unknown = (
        image(0.9, 1, modality="XA"),
        image(0.9, 2, body_part="CHEST"),
        image(0.1, 3, modality=None, body_part=None),
    )

    assert assess([angiogram, chest], SCOPE, 0.5).status is StudyStatus.OUT_OF_SCOPE
    assert assess([angiogram, chest, unknown], SCOPE, 0.5).score == 0.1


def test_an_image_unlike_the_training_images_has_no_say_and_alone_is_out_of_scope() -> None:
    scope = replace(SCOPE, distance=2.0)
    tooth, hand, unknown = image(0.9, 1, distance=2.1), image(0.1, 2, distance=2.0), image(0.3, 3, distance=None)

    assert image_states([tooth, hand, unknown], scope) == [
        ImageState.OUT_OF_SCOPE,
        ImageState.SCORED,
        ImageState.SCORED,
    ]
    found = assess([tooth, hand, unknown], scope, 0.5)
    assert (found.status, found.score, found.highest, found.flagged) == (StudyStatus.SCORED, 0.2, 0.3, False)
    alone = assess([tooth, tooth], scope, 0.5)
    assert (alone.status, alone.score, alone.flagged) == (StudyStatus.OUT_OF_SCOPE, None, False)
    assert assess([tooth], SCOPE, 0.5).score == 0.9


def test_a_raw_image_counts_where_the_finished_one_of_its_view_is_unlike_the_training_images() -> None:
    raw, finished = image(0.2, 1, intent="FOR PROCESSING", distance=1.0), image(0.9, 2, distance=3.0)

    assert assess([raw, finished], replace(SCOPE, distance=2.0), 0.5).score == 0.2


def test_a_study_of_several_patients_has_no_score() -> None:
    found = assess([image(0.9, 0), image(0.9, 1, patient_mark="bbbb....")], SCOPE, 0.5)

    assert (found.status, found.score, found.flagged) == (StudyStatus.NOT_ASSESSABLE, None, False)


def test_equal_pictures_of_different_patients_are_no_copies() -> None:
    assert states(image(0.9, 0), image(0.9, 0, patient_mark="bbbb....")) == [ImageState.SCORED] * 2


def test_a_copy_without_its_patient_is_a_copy_all_the_same() -> None:
    assert states(image(0.9, 0), image(0.9, 0, patient_mark=None)) == [ImageState.SCORED, ImageState.COPY]


def test_an_image_that_names_no_patient_is_the_other_images_patient_s() -> None:
    assert assess([image(0.9, 0), image(0.9, 1, patient_mark=None)], SCOPE, 0.5).status is StudyStatus.SCORED


def test_a_failed_image_leaves_a_study_incomplete_and_a_study_of_failures_not_assessable() -> None:
    assert assess([image(0.9), image(None)], SCOPE, 0.5).status is StudyStatus.INCOMPLETE
    assert assess([image(0.9), image(None)], SCOPE, 0.5).flagged
    assert assess([image(None), image(None)], SCOPE, 0.5).status is StudyStatus.NOT_ASSESSABLE
    assert assess([image(None, body_part="CHEST"), image(0.9)], SCOPE, 0.5).status is StudyStatus.SCORED
    assert assess([image(None), image(0.9, body_part="CHEST")], SCOPE, 0.5).status is StudyStatus.NOT_ASSESSABLE
