"""Read where findings lie: COCO JSON (Lin et al. 2014, arXiv:1405.0312), or a list of boxes beside FracAtlas."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from training.data.annotations import Annotation
from training.data.dataset import Dataset
from xray.archives.files import read_image_file
from xray.errors import FileFault, UsageError
from xray.images.decode import open_image
from xray.vocabulary import count

OUTSIDE_PIXELS = 2.0
"""How far a point may lie outside its image; annotation tools round, and people click on the edge."""

SAME_SHAPE = 0.02
"""By how much the proportions of an image may differ from those that its annotations were made for."""

_LARGEST = 10**9
_NAMED = 3
_T = TypeVar("_T", str, int, list[Any])


@dataclass(frozen=True)
class _Entry:
    """One annotation as a file lists it.

    Attributes
    ----------
    where : str
        The file and the entry, for messages.
    image : str
        The image, as the file names it.
    size : tuple of int or None
        Height and width of the image that it was made for, pixels; None if the file does not say.
    box, polygons
        As in COCO, pixels.
    """

    where: str
    image: str
    size: tuple[int, int] | None
    box: tuple[float, ...]
    polygons: tuple[tuple[float, ...], ...]


def with_coco_annotations(dataset: Dataset, file: Path, examples: Mapping[str, int]) -> Dataset:
    """Add the annotations of a COCO file: ``images``, and ``annotations`` with ``bbox`` and ``segmentation``.

    Coordinates are pixels of the image as it is shown, after its EXIF orientation. The file may be of a larger or
    smaller copy, by its ``width`` and ``height``. ``segmentation`` is a list of polygons; if it is empty, the box
    counts.

    Parameters
    ----------
    dataset : Dataset
        The data set.
    file : Path
        The COCO file.
    examples : mapping of str to int
        From ``file_name`` to the position of the example.

    Returns
    -------
    Dataset
        With annotations, and a note for each kind of annotation that was left out: of an image that is not in the data
        set, that is labelled negative, or that has other proportions than the file says.

    Raises
    ------
    UsageError
        If the file cannot be read, an entry is wrong, or none of its images is in the data set.
    ArchiveOutage
        If the storage fails.
    """
    return _annotate(dataset, file, examples, _coco_entries(file))


def with_listed_annotations(dataset: Dataset, file: Path, examples: Mapping[str, int]) -> Dataset:
    """Add the annotations of a JSON list of objects: ``image``, ``box`` and ``polygons``, the latter two as in COCO.

    Coordinates are pixels of the image as it is shown, after its EXIF orientation. Parameters, result and errors are as
    of :func:`with_coco_annotations`.
    """
    return _annotate(dataset, file, examples, _listed_entries(file))


def _annotate(dataset: Dataset, file: Path, positions: Mapping[str, int], entries: Iterable[_Entry]) -> Dataset:
    by_image: dict[str, list[_Entry]] = {}
    for entry in entries:
        by_image.setdefault(entry.image, []).append(entry)
    known = [image for image in by_image if image in positions]
    if by_image and not known:
        raise UsageError(
            f"{file}: none of its {count(len(by_image), 'image')} is in the data set: it names "
            f"{next(iter(by_image))!r}, the data set {next(iter(positions), '')!r}"
        )
    examples = list(dataset.examples)
    negative, other_shape = [], []
    for image in known:
        example = examples[positions[image]]
        size = _size(dataset.root, example.image)
        made_for = by_image[image][0].size or size
        if not example.label:
            negative.append(image)
        elif made_for is None:
            # The image itself cannot be read, and will be left out.
            continue
        elif size is not None and not _have_same_shape(size, made_for):
            other_shape.append(image)
        else:
            annotations = tuple(_annotation(entry, *made_for) for entry in by_image[image])
            examples[positions[image]] = replace(example, annotations=annotations)
    left_out = (
        ("not in the data, or without a label", [image for image in by_image if image not in positions]),
        ("labelled negative", negative),
        ("of other proportions than the file says", other_shape),
    )
    annotated = sum(bool(example.annotations) for example in examples)
    without = sum(example.label and not example.annotations for example in examples)
    notes = (
        f"{file.name} says where the {dataset.finding} lies in {count(annotated, 'image')}; positive images that it "
        f"does not mark: {without:,}",
        *(
            f"{file.name}: left out the annotations of images that are {why}: {len(images):,} ({_first(images)})"
            for why, images in left_out
            if images
        ),
    )
    return replace(dataset, examples=tuple(examples), notes=(*dataset.notes, *notes))


def _first(images: list[str]) -> str:
    return ", ".join(images[:_NAMED]) + (", ..." if len(images) > _NAMED else "")


def _have_same_shape(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return math.isclose(one[0] * other[1], one[1] * other[0], rel_tol=SAME_SHAPE)


def _size(root: Path, image: str) -> tuple[int, int] | None:
    """Return an image's height and width; None if it cannot be read."""
    try:
        return open_image(read_image_file(root, image)).size
    except FileFault:
        return None


def _annotation(entry: _Entry, height: int, width: int) -> Annotation:
    left, top, box_width, box_height = entry.box
    left, right = (_fraction(entry, value, width) for value in (left, left + box_width))
    top, bottom = (_fraction(entry, value, height) for value in (top, top + box_height))
    polygons = tuple(
        tuple(_fraction(entry, value, (width, height)[at % 2]) for at, value in enumerate(polygon))
        for polygon in entry.polygons
    )
    try:
        return Annotation((left, top, right - left, bottom - top), polygons)
    except ValueError as error:
        raise UsageError(f"{entry.where}: {error}") from error


def _fraction(entry: _Entry, value: float, side: int) -> float:
    if not -OUTSIDE_PIXELS <= value <= side + OUTSIDE_PIXELS:
        raise UsageError(f"{entry.where}: {value:g} is outside the image, whose side has {side:,} pixels")
    return min(max(value / side, 0.0), 1.0)


def _listed_entries(file: Path) -> Iterator[_Entry]:
    listed = _read_json(file)
    if not isinstance(listed, list):
        raise UsageError(f"{file} is not a list of annotations")
    for number, item in enumerate(listed, start=1):
        where = f"{file}, entry {number}"
        image = _field(item, "image", str, where)
        where = f"{where} ({image})"
        box = _box(_field(item, "box", list, where), where)
        yield _Entry(where, image, None, box, _polygons(_field(item, "polygons", list, where), where))


def _coco_entries(file: Path) -> Iterator[_Entry]:
    coco = _read_json(file)
    images: dict[int, tuple[str, tuple[int, int]]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for number, item in enumerate(_field(coco, "images", list, str(file)), start=1):
        where = f"{file}, image {number}"
        name = _field(item, "file_name", str, where).replace("\\", "/")
        height, width = _field(item, "height", int, where), _field(item, "width", int, where)
        if not 0 < min(height, width) <= max(height, width) < _LARGEST:
            raise UsageError(f"{where} ({name}): width or height is not a number of pixels")
        key = _field(item, "id", int, where)
        # Annotations would be taken for another image's, or for those of a copy of another size.
        if key in images:
            raise UsageError(f"{where} ({name}): an image before it has the same id")
        if sizes.setdefault(name, (height, width)) != (height, width):
            raise UsageError(f"{where} ({name}): an image before it has the same name, and another size")
        images[key] = name, (height, width)
    categories = set()
    for number, item in enumerate(_field(coco, "annotations", list, str(file)), start=1):
        where = f"{file}, annotation {number}"
        image = _field(item, "image_id", int, where)
        if image not in images:
            raise UsageError(f"{where}: there is no image with the id {image}")
        name, size = images[image]
        where = f"{where} ({name})"
        categories.add(_field(item, "category_id", int, where))
        if len(categories) > 1:
            raise UsageError(f"{where}: a second category; keep only the annotations of the finding")
        box = _box(_field(item, "bbox", list, where), where)
        segmentation = item.get("segmentation") or []
        if not isinstance(segmentation, list):
            raise UsageError(
                f"{where}: the segmentation is run-length encoded; write polygons, or leave it out to use the box"
            )
        yield _Entry(where, name, size, box, _polygons(segmentation, where))


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from error


def _field(item: Any, name: str, kind: type[_T], where: str) -> _T:
    value = item.get(name) if isinstance(item, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = {str: "a text", int: "a whole number", list: "a list"}
        raise UsageError(f"{where}: {name!r} is not {kinds[kind]}")
    return value


def _box(values: list[Any], where: str) -> tuple[float, ...]:
    box = _numbers(values, where)
    if len(box) != 4:
        raise UsageError(f"{where}: a box is x, y, width and height")
    return box


def _polygons(polygons: list[Any], where: str) -> tuple[tuple[float, ...], ...]:
    return tuple(_numbers(polygon, where) for polygon in polygons)


def _numbers(values: Any, where: str) -> tuple[float, ...]:
    if not isinstance(values, list) or not all(
        # Written so that NaN fails too.
        isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST
        for value in values
    ):
        raise UsageError(f"{where}: a box or a polygon is not a list of numbers")
    return tuple(map(float, values))
