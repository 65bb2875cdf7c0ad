"""The speed of a run."""

from bonescreen.progress import WINDOW_SECONDS, Speed


def _speed(*samples: tuple[float, int]) -> float | None:
    speed = Speed()
    for now, processed in samples:
        speed.add(now, processed)
    return speed.images_per_second


def test_the_speed_is_that_of_the_last_batches() -> None:
    assert _speed((0, 0), (5, 100), (10, 200)) == 20


def test_a_standstill_has_no_speed() -> None:
    assert _speed((0, 0), (5, 100), (5 + WINDOW_SECONDS + 1, 100)) is None


def test_a_batch_that_takes_longer_than_the_window_is_not_a_standstill() -> None:
    assert _speed((0, 0), (100, 200), (190, 200)) == 2


def test_after_a_standstill_the_speed_is_that_of_the_new_batches() -> None:
    again = 1000.0
    assert _speed((0, 0), (5, 100), (again, 100), (again + 5, 150)) == 10
