"""`bonescreen screen IMAGE`: an archive that is one file."""

import json
from pathlib import Path

import pytest
from PIL import Image
from pydicom import uid

from tests.archives import flat_tree, image_pixels, jpeg, png
from tests.bonescreen.processes import run
from tests.dicoms import dicom
from xray.archives.files import file_version, open_image, read_image_file
from xray.archives.storage_errors import require_root
from xray.errors import ArchiveOutage


def write_images(folder: Path) -> list[Path]:
    """Write an image of each format, under a name that says nothing where the content does."""
    folder.mkdir()
    Image.fromarray(image_pixels(1)).save(folder / "hand.tif")
    (folder / "hand.png").write_bytes(png(2))
    (folder / "hand.jpg").write_bytes(jpeg(3))
    (folder / "IM0001").write_bytes(dicom(image_pixels(4), BodyPartExamined="HAND", StudyInstanceUID="1.2.3"))
    (folder / "chest.dcm").write_bytes(dicom(image_pixels(5), BodyPartExamined="CHEST"))
    (folder / "no suffix").write_bytes(png(6))
    return sorted(folder.iterdir())


def test_single_images_of_every_format_are_screened_without_their_neighbours(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    images = write_images(tmp_path / "images")
    flat_tree(tmp_path / "images", 2)

    done = run(environ, "screen", *images)

    assert done.returncode == 0, done.stderr
    rows = json.loads(run(environ, "results", "--format", "json").stdout)
    assert {row["study"]: (row["status"], row["images"]) for row in rows} == {
        **{image.name: ("scored", 1) for image in images},
        "chest.dcm": ("out of scope", 1),
    }
    again = run(environ, "screen", *images)
    assert again.returncode == 0
    assert again.stderr.count("already screened: 1 study") == len(images)
    for name in ("hand.png", "IM0001"):
        (image,) = json.loads(run(environ, "study", name, "--json").stdout)[0]["images_held"]
        assert image["image"] == name
        drawn = run(environ, "heatmap", name, "-o", tmp_path / "drawn")
        assert drawn.stdout.splitlines() == [str(tmp_path / "drawn" / f"{name}.heatmap.png")], drawn.stderr
    assert (tmp_path / "drawn" / "IM0001.heatmap.png").read_bytes().startswith(b"\x89PNG")


def test_an_image_that_has_changed_is_screened_again(tmp_path: Path, environ: dict[str, str]) -> None:
    image = tmp_path / "hand.png"
    for seed in (1, 2):
        image.write_bytes(png(seed) + bytes(seed))
        assert "to screen: 1 image" in run(environ, "screen", "--dry-run", image).stdout
        assert run(environ, "screen", image).returncode == 0
    assert "to screen: 0 images" in run(environ, "screen", "--dry-run", image).stdout


@pytest.mark.parametrize("content", [b"", b"a letter", b"PK\x03\x04"])
def test_a_file_that_is_not_an_image_is_refused_by_name(
    tmp_path: Path, environ: dict[str, str], content: bytes
) -> None:
    (tmp_path / "letter.png").write_bytes(content)

    done = run(environ, "screen", tmp_path / "letter.png")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {tmp_path / 'letter.png'} is not a DICOM, PNG, JPEG or TIFF image; ")
    assert len(done.stderr.splitlines()) == 1


def test_a_dicom_file_that_is_not_a_radiograph_is_refused_by_what_it_is(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    (tmp_path / "slice.dcm").write_bytes(dicom(image_pixels(1), SOPClassUID=uid.CTImageStorage, Modality="CT"))
    done = run(environ, "enqueue", tmp_path / "slice.dcm")
    assert done.returncode == 2
    assert "1 DICOM file that is not a radiograph (CT Image Storage)" in done.stderr


def test_a_layout_is_refused_as_one_image_has_none(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "hand.png").write_bytes(png(1))
    done = run(environ, "enqueue", "--layout", "mura", tmp_path / "hand.png")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path / 'hand.png'} is one image; --layout is for folders, zips and tars\n"


def test_a_single_image_is_read_by_its_name_alone_and_its_archive_can_go_away(tmp_path: Path) -> None:
    image = tmp_path / "hand.png"
    image.write_bytes(b"pixels")
    (tmp_path / "neighbour.png").write_bytes(b"others")

    assert read_image_file(image, "hand.png", expected=file_version(image, "hand.png")) == b"pixels"
    with open_image(image, "hand.png") as stream:
        assert stream.read(2) == b"pi"
    require_root(image)
    with pytest.raises(ArchiveOutage, match="not a folder"):
        read_image_file(image, "neighbour.png")
    image.write_bytes(b"")
    with pytest.raises(ArchiveOutage, match="is an empty file"):
        require_root(image)
    image.unlink()
    with pytest.raises(ArchiveOutage, match="is missing"):
        read_image_file(image, "hand.png")
