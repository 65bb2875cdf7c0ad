"""Names of the images in a report."""

from pathlib import Path

from training.explain.input_images import distinct_names


def test_a_file_is_named_by_the_shortest_end_of_its_path_that_no_other_has() -> None:
    paths = [Path(path) for path in ("a.png", "x/a.png", "y/x/a.png", "/z/b.png", "c\n.png")]
    assert distinct_names(paths) == ["a.png", "x/a.png", "y/x/a.png", "b.png", "c\\n.png"]
