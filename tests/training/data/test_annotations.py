"""Where findings lie: read from COCO files and lists, as masks of the network's input and as targets of a map."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.dicoms import dicom, phantom
from training.data.annotations import Annotation, cell_targets, mask
from training.data.images import load_images
from training.data.read_dataset import read_dataset
from training.progress import Progress
from xray.errors import UsageError
from xray.images.preprocessing import Geometry, Preprocessing

QUARTER_TURN = 6
"""EXIF orientation: to be shown turned clockwise by 90 degrees."""

BOX = Annotation((0.2, 0.1, 0.5, 0.2))


def list_fractures(folder: Path, *entries: dict[str, Any]) -> Path:
    (folder / "fractures.json").write_text(json.dumps(entries))
    return folder


def entry(image: str = "IMG0000.png", box: object = (7, 9, 21, 18), polygons: object = ()) -> dict[str, Any]:
    return {"image": image, "box": box, "polygons": polygons}


def coco(images: list[tuple[str, int, int]], *annotations: dict[str, Any]) -> str:
    listed = [{"id": i, "file_name": name, "width": w, "height": h} for i, (name, w, h) in enumerate(images)]
    return json.dumps({"images": listed, "annotations": annotations, "categories": [{"id": 0, "name": "fractured"}]})


def marked(image_id: int, bbox: object, segmentation: object = (), category_id: int = 0) -> dict[str, Any]:
    return {"image_id": image_id, "bbox": bbox, "segmentation": segmentation, "category_id": category_id}


def as_published(fracatlas: Path, text: str) -> Path:
    table = fracatlas / "labels.csv"
    (fracatlas / "dataset.csv").write_text(table.read_text().replace("image,", "image_id,", 1))
    table.unlink()
    file = fracatlas / "Annotations/COCO JSON/COCO_fracture_masks.json"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return fracatlas


def manifest(folder: Path, text: str) -> Path:
    Image.new("L", (100, 50), 90).save(folder / "a.png")
    (folder / "manifest.csv").write_text("study,image,label\ns1,a.png,positive\ns2,sub/b.png,negative\n")
    (folder / "annotations.json").write_text(text)
    return folder


def test_fractures_are_read_from_fracatlas_own_coco_file_as_fractions_of_the_image(fracatlas: Path) -> None:
    outline = [140, 90, 420, 90, 420, 270]
    text = coco([("IMG0000.png", 700, 900), ("IMG0003.png", 700, 900)], marked(0, [140, 90, 350, 180], [outline]))
    (fracatlas / "images/Fractured").mkdir()
    (fracatlas / "images/IMG0000.png").rename(fracatlas / "images/Fractured/IMG0000.png")
    dataset = read_dataset(as_published(fracatlas, text))
    (found,) = dataset.examples[0].annotations
    assert found.box == pytest.approx((0.2, 0.1, 0.5, 0.2))
    assert found.polygons == (pytest.approx((0.2, 0.1, 0.6, 0.1, 0.6, 0.3)),)
    assert not any(example.annotations for example in dataset.examples[1:])
    assert "the fracture lies in 1 image; positive images that it does not mark: 19" in " ".join(dataset.notes)


def test_a_list_of_boxes_counts_in_pixels_of_the_image_as_it_is_shown(fracatlas: Path) -> None:
    # Stored 90 wide and 70 high, shown 70 wide and 90 high.
    exif = Image.Exif()
    exif[0x0112] = QUARTER_TURN
    image = Image.open(fracatlas / "images/IMG0000.png").rotate(90, expand=True)
    image.save(fracatlas / "images/IMG0000.png", exif=exif)
    dataset = read_dataset(list_fractures(fracatlas, entry(), entry(box=[0, 0, 7, 9])))
    assert [found.box for found in dataset.examples[0].annotations] == [
        pytest.approx((0.1, 0.1, 0.3, 0.2)),
        pytest.approx((0, 0, 0.1, 0.1)),
    ]


def test_a_manifest_has_its_findings_in_a_coco_file_beside_it(tmp_path: Path) -> None:
    dataset = read_dataset(manifest(tmp_path, coco([("a.png", 100, 50)], marked(0, [10, 10, 30, 20]))))
    assert dataset.examples[0].annotations == (Annotation((0.1, 0.2, 0.4 - 0.1, 0.6 - 0.2)),)
    assert dataset.examples[1].annotations == ()


def test_the_findings_stay_with_their_image_in_any_selection_and_when_the_images_are_read(
    fracatlas: Path, tmp_path: Path
) -> None:
    listed = read_dataset(list_fractures(fracatlas, entry("IMG0003.png")))
    groups = tmp_path / "groups.csv"
    groups.write_text("image,group\n" + "".join(f"{image},{i // 10}\n" for i, image in enumerate(listed.images)))
    (fracatlas / "images/IMG0000.png").unlink()
    regrouped = read_dataset(fracatlas, groups=groups, body_parts=["HAND"])
    dataset, _, _ = load_images(regrouped, Preprocessing(64, "pad"), tmp_path / "cache", Progress())
    again, _, _ = load_images(regrouped, Preprocessing(64, "pad"), tmp_path / "cache", Progress())
    assert again == dataset
    assert {example.size for example in dataset.examples} == {(90, 70)}
    found = dataset.select(np.array([bool(example.annotations) for example in dataset.examples]))
    assert found.images.tolist() == ["images/IMG0003.png"]
    assert found.examples[0].annotations[0].box == pytest.approx((0.1, 0.1, 0.3, 0.2))


def test_annotations_that_contradict_the_data_are_left_out_and_named(fracatlas: Path) -> None:
    Image.new("L", (90, 70), 90).save(fracatlas / "images/IMG0006.png")
    images = [(f"IMG000{number}.png", 70, 90) for number in (0, 1, 6)] + [("elsewhere.png", 70, 90)]
    text = coco(images, *(marked(at, [7, 9, 21, 18]) for at in range(4)))
    notes = " ".join(read_dataset(as_published(fracatlas, text)).notes)
    for why, image in (
        ("labelled negative", "IMG0001.png"),
        ("of other proportions than the file says", "IMG0006.png"),
        ("not in the data, or without a label", "elsewhere.png"),
    ):
        assert f"left out the annotations of images that are {why}: 1 ({image})" in notes


@pytest.mark.parametrize(("spacing", "size"), [([0.1, 0.1], (96, 64)), ([0.2, 0.1], (96, 32))])
def test_annotations_of_a_dicom_image_must_have_its_proportions_with_square_pixels(
    tmp_path: Path, spacing: list[float], size: tuple[int, int]
) -> None:
    (tmp_path / "a.dcm").write_bytes(dicom(phantom()[:96, :64], ImagerPixelSpacing=spacing))
    (tmp_path / "manifest.csv").write_text("study,image,label\ns1,a.dcm,positive\n")
    height, width = size
    for factor, left_out in ((1, False), (2, True)):
        listed = coco([("a.dcm", 4 * width * factor, 4 * height)], marked(0, [width, height, width, height]))
        (tmp_path / "annotations.json").write_text(listed)
        dataset = read_dataset(tmp_path)
        assert bool(dataset.examples[0].annotations) is not left_out
        named = "left out the annotations of images that are of other proportions than the file says: 1 (a.dcm)"
        assert (named in " ".join(dataset.notes)) is left_out
        readable, _, _ = load_images(dataset, Preprocessing(64, "pad"), tmp_path / "cache", Progress())
        assert readable.examples[0].size == size


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (entry(box=[7, 9, 21]), r"entry 1 \(IMG0000.png\): a box is x, y, width and height"),
        (entry(box=[7, 9, 21, float("nan")]), r"\(IMG0000.png\): a box or a polygon is not a list of numbers"),
        (entry(box=[7, 9, 21, 10**400]), r"\(IMG0000.png\): a box or a polygon is not a list of numbers"),
        (entry(box=[7, 9, 0, 18]), r"\(IMG0000.png\): the box is empty"),
        (entry(box=[50, 9, 23, 18]), r"\(IMG0000.png\): 73 is outside the image, whose side has 70 pixels"),
        (entry(polygons=[[1, 2, 3, 4]]), r"\(IMG0000.png\): a polygon needs three points"),
        (entry(polygons=[[1, 2, 3, 4, 5]]), r"\(IMG0000.png\): a polygon needs three points"),
        (entry("IMG9.png"), r"none of its 1 image is in the data set: it names 'IMG9.png', the data set 'IMG0000.png'"),
        ({"image": "IMG0000.png"}, r"entry 1 \(IMG0000.png\): 'box' is not a list"),
        ({}, "entry 1: 'image' is not a text"),
    ],
)
def test_a_wrong_entry_of_a_list_is_refused_by_its_name(fracatlas: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_dataset(list_fractures(fracatlas, wrong))


def test_a_point_just_outside_the_image_is_moved_to_its_edge(fracatlas: Path) -> None:
    dataset = read_dataset(list_fractures(fracatlas, entry(box=[-1.5, 80, 30, 11])))
    assert dataset.examples[0].annotations[0].box == pytest.approx((0, 8 / 9, 28.5 / 70, 1 / 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "'images' is not a list"),
        (coco([("a.png", 100, 50)], marked(1, [0, 0, 1, 1])), "annotation 1: there is no image with the id 1"),
        (coco([("a.png", 0, 50)]), r"image 1 \(a.png\): width or height is not a number of pixels"),
        (coco([("a.png", 10**400, 50)]), r"image 1 \(a.png\): width or height is not a number of pixels"),
        (
            coco([("a.png", 100, 50), ("sub/b.png", 100, 50)]).replace('"id": 1', '"id": 0'),
            r"image 2 \(sub/b.png\): an image before it has the same id",
        ),
        (
            coco([("a.png", 100, 50), ("a.png", 200, 100)]),
            r"image 2 \(a.png\): an image before it has the same name, and another size",
        ),
        (
            coco([("a.png", 100, 50)], marked(0, [0, 0, 9, 9], {"counts": "x", "size": [50, 100]})),
            r"annotation 1 \(a.png\): the segmentation is run-length encoded",
        ),
        (
            coco([("a.png", 100, 50)], marked(0, [0, 0, 9, 9]), marked(0, [0, 0, 9, 9], category_id=1)),
            r"annotation 2 \(a.png\): a second category; keep only the annotations of the finding",
        ),
    ],
)
def test_a_wrong_coco_file_is_refused_with_the_entry(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=rf"annotations\.json.*{message}"):
        read_dataset(manifest(tmp_path, text))


@pytest.mark.parametrize("geometry", ["pad", "squash"])
@pytest.mark.parametrize(("height", "width"), [(300, 200), (120, 500)])
def test_a_mask_lies_where_the_network_sees_the_finding(geometry: Geometry, height: int, width: int) -> None:
    preprocessing = Preprocessing(96, geometry)
    left, top, box_width, box_height = BOX.box
    gray = np.zeros((height, width), np.uint8)
    rows, columns = (
        slice(round(start * side), round((start + length) * side))
        for start, length, side in ((top, box_height, height), (left, box_width, width))
    )
    gray[rows, columns] = 255
    # Bilinear reduction blurs an edge over a pixel.
    differences = np.abs(preprocessing.apply(gray).astype(float) - mask([BOX], preprocessing, height, width))
    assert (differences > 64).sum() == 0
    assert differences.mean() < 3


def test_a_mask_has_the_area_of_the_outline_and_each_finding_however_small() -> None:
    preprocessing = Preprocessing(64, "squash")
    triangle = Annotation((0.25, 0.25, 0.5, 0.5), ((0.25, 0.25, 0.75, 0.25, 0.75, 0.75),))
    assert mask([triangle], preprocessing, 100, 100).mean() / 255 == pytest.approx(0.125, rel=0.01)
    tiny = Annotation((0.9, 0.9, 0.0001, 0.0001))
    both = mask([triangle, tiny], preprocessing, 100, 100)
    assert both[57, 57] > 0
    assert (both > mask([triangle], preprocessing, 100, 100)).sum() == 1
    assert not mask([], preprocessing, 100, 100).any()


@pytest.mark.parametrize("x", [0.0, 0.5, 1.0])
def test_an_outline_without_width_is_still_there(x: float) -> None:
    preprocessing = Preprocessing(64, "squash")
    line = Annotation((0.25, 0.25, 0.5, 0.5), ((x, 0.25, x, 0.5, x, 0.75),))
    turned = Annotation((0.25, 0.25, 0.5, 0.5), ((0.25, x, 0.5, x, 0.75, x),))
    upright, across = (mask([each], preprocessing, 100, 100) for each in (line, turned))
    assert np.flatnonzero(upright.any(axis=0)).tolist() == [min(round(64 * x), 63)]
    assert np.array_equal(across, upright.T)


def test_a_cell_covered_by_three_tenths_is_a_full_target_and_each_image_with_a_finding_has_one() -> None:
    masks = np.zeros((4, 28, 28), np.uint8)
    masks[0, :4, :4] = 255
    masks[0, 4:8, :4].flat[:2] = 255
    masks[1, 9, 9] = 255
    masks[2, 12:16, 14] = 255
    masks[2, 12:14, 22] = 255
    targets = cell_targets(masks, 7)
    assert targets.dtype == np.float32
    assert targets[0, 0, 0] == 1
    assert targets[0, 1, 0] == pytest.approx(2 / 16 / 0.3)
    assert targets[1].sum() == targets[1, 2, 2] == 1
    assert (targets[2, 3, 3], targets[2, 3, 5]) == (1, pytest.approx(0.5))
    assert not targets[3].any()
    # The edge between two of three cells divides a pixel.
    assert cell_targets(np.full((1, 28, 28), 255, np.uint8), 3).tolist() == [[[1] * 3] * 3]
