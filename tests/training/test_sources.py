"""Labelled data sets: MURA as downloaded or as a tree, FracAtlas, and manifests; read strictly."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from training.data.dataset import Role
from training.data.images import load_images
from training.data.read_dataset import read_dataset
from xray.archives.files import MAX_BYTES
from xray.errors import ArchiveOutage, UsageError
from xray.images.preprocessing import Preprocessing
from xray.vocabulary import Reason


def published(mura: Path, tmp_path: Path, valid: int = 4) -> Path:
    """Turn a tree into MURA v1.1 as downloaded: the last patients in valid/, tables beside."""
    root = tmp_path / "MURA-v1.1"
    studies = sorted(mura.glob("XR_*/patient*/study*"))
    for part, chosen in (("train", studies[:-valid]), ("valid", studies[-valid:])):
        paths, labels = [], []
        for study in chosen:
            relative = f"MURA-v1.1/{part}/{study.relative_to(mura).as_posix()}"
            shutil.copytree(study, tmp_path / relative)
            paths += [f"{relative}/{image.name}" for image in sorted(study.iterdir())]
            labels.append(f"{relative}/,{int(study.name.endswith('positive'))}")
        (root / f"{part}_image_paths.csv").write_text("\n".join(paths) + "\n")
        (root / f"{part}_labeled_studies.csv").write_text("\n".join(labels) + "\n")
    return root


def test_mura_as_downloaded_is_read_by_its_tables_from_its_folder_and_from_the_one_around_it(
    mura: Path, tmp_path: Path
) -> None:
    root = published(mura, tmp_path)
    dataset = read_dataset(root)
    assert (len(dataset), int(dataset.labels.sum())) == (48, 24)
    assert set(dataset.body_parts.tolist()) == {"HUMERUS"}
    assert [example.role for example in dataset.examples].count(Role.TEST) == 8
    assert dataset.examples[0].study == "train/XR_HUMERUS/patient00000/study1_negative"
    assert dataset.examples[0].group == "patient00000"
    (around := tmp_path / "around").mkdir()
    root.rename(around / "MURA-v1.1")
    assert read_dataset(around).examples == dataset.examples
    shutil.rmtree(around / "MURA-v1.1/valid")
    for table in (around / "MURA-v1.1").glob("*.csv"):
        table.unlink()
    assert len(read_dataset(around / "MURA-v1.1")) == 40


def test_where_table_and_folder_contradict_each_other_the_table_counts_and_it_is_said(
    mura: Path, tmp_path: Path
) -> None:
    root = published(mura, tmp_path)
    table = root / "train_labeled_studies.csv"
    table.write_text(table.read_text().replace("study1_negative/,0", "study1_negative/,1", 1))
    dataset = read_dataset(root)
    assert int(dataset.labels.sum()) == 26
    assert "1 studies have one label in the table and another in their folder's name" in dataset.notes[0]


def test_a_patient_in_train_and_in_valid_is_refused_by_name(mura: Path, tmp_path: Path) -> None:
    root = published(mura, tmp_path)
    line = "MURA-v1.1/valid/XR_HUMERUS/patient00000/study2_negative"
    with (root / "valid_image_paths.csv").open("a") as file:
        file.write(f"{line}/image1.png\n")
    with pytest.raises(UsageError, match="patient00000 is both in train/ and in valid/"):
        read_dataset(root)


def test_a_mura_tree_is_read_by_its_folders(mura: Path) -> None:
    for folder in (mura, mura / "XR_HUMERUS"):
        dataset = read_dataset(folder)
        assert (len(dataset), int(dataset.labels.sum()), len(set(dataset.groups.tolist()))) == (48, 24, 24)
        assert set(dataset.body_parts.tolist()) == {"HUMERUS"}


def test_fracatlas_is_read_with_its_groups_and_parts(fracatlas: Path) -> None:
    dataset = read_dataset(fracatlas)
    assert (len(dataset), int(dataset.labels.sum()), len(set(dataset.groups.tolist()))) == (60, 20, 12)
    assert (dataset.body_parts == "HAND").sum() == 30
    assert dataset.finding == "fracture"


def test_fracatlas_as_published_has_no_groups_until_they_are_given(fracatlas: Path, tmp_path: Path) -> None:
    table = fracatlas / "labels.csv"
    text = table.read_text().replace("image,", "image_id,", 1)
    (fracatlas / "dataset.csv").write_text(text)
    table.unlink()
    (fracatlas / "images/Fractured").mkdir()
    (fracatlas / "images/IMG0000.png").rename(fracatlas / "images/Fractured/IMG0000.png")
    dataset = read_dataset(fracatlas)
    assert dataset.examples[0].image == "images/Fractured/IMG0000.png"
    assert "groups.csv" in dataset.notes[0]
    groups = tmp_path / "groups.csv"
    groups.write_text("image,group\n" + "".join(f"{image},{i // 6}\n" for i, image in enumerate(dataset.images)))
    assert len(set(read_dataset(fracatlas, groups=groups).groups.tolist())) == 10
    groups.write_text("image,group\nimages/Fractured/IMG0000.png,a\n")
    with pytest.raises(UsageError, match=r"no group is given for the image 'images/IMG0001\.png'"):
        read_dataset(fracatlas, groups=groups)


def test_a_manifest_gives_labels_parts_and_hashed_patients(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        "study,image,label,body_part,patient\n"
        "s1,a.png,positive,WRIST,Doe^Jane\ns2,b.png,negative,,Doe^Jane\ns3,c.png,,,\ns4,d.png,negative,,\n"
    )
    dataset = read_dataset(tmp_path, finding="fracture")
    assert dataset.images.tolist() == ["a.png", "b.png", "d.png"]
    first, second, third = dataset.groups.tolist()
    assert first == second != third
    assert "Doe" not in repr(dataset)
    assert dataset.body_parts.tolist() == ["WRIST", "", ""]
    assert dataset.finding == "fracture"
    assert dataset.notes == ("1 images without a label were left out",)


def test_a_study_stays_together_where_only_one_of_its_lines_names_the_patient(tmp_path: Path) -> None:
    lines = "s1,a.png,negative,\ns1,b.png,positive,P1\ns2,c.png,negative,P1\ns3,d.png,negative,\n"
    (tmp_path / "manifest.csv").write_text(f"study,image,label,patient\n{lines}")
    first, second, third, fourth = read_dataset(tmp_path).groups.tolist()
    assert first == second == third != fourth
    (tmp_path / "manifest.csv").write_text(f"study,image,label,patient\n{lines}s2,e.png,,P2\n")
    with pytest.raises(UsageError, match="line 6: the study 's2' has two patients"):
        read_dataset(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.csv", "image,fractured,hand,leg,hip,shoulder\n", "has no column group"),
        ("labels.csv", "image,fractured,hand,leg,hip,shoulder,group\n", "has no rows"),
        ("labels.csv", "image,fractured,hand,leg,hip,shoulder,group\na,2,0,0,0,0,1\n", "line 2: fractured is neither"),
        (
            "labels.csv",
            "image,fractured,hand,leg,hip,shoulder,group\n../a,1,0,0,0,0,1\n",
            "line 2: image is not a file",
        ),
        ("labels.csv", "image,fractured,hand,leg,hip,shoulder,group\na,1,0,0,0,0,1\na,1,0,0,0,0,1\n", "listed 2 times"),
        ("manifest.csv", "study,image\ns,a.png\n", "has no labels: its column 'label'"),
        ("manifest.csv", "study,image,label\ns,a.png,maybe\n", "line 2: the label 'maybe' is neither"),
        ("elsewhere.csv", "", "is no labelled data set"),
    ],
)
def test_data_that_cannot_be_used_say_why(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_dataset(tmp_path)


def test_body_parts_that_are_not_there_are_refused_with_those_that_are(fracatlas: Path) -> None:
    assert len(read_dataset(fracatlas, body_parts=["HAND"])) == 30
    with pytest.raises(UsageError, match=r"no images of HUMERUS, but of LEG \(30\), HAND \(30\)"):
        read_dataset(fracatlas, body_parts=["HUMERUS"])


def test_unreadable_films_are_left_out_by_reason_and_the_rest_is_kept_on_disk(fracatlas: Path, tmp_path: Path) -> None:
    (fracatlas / "images" / "IMG0010.png").unlink()
    preprocessing, cache = Preprocessing(64, "pad"), tmp_path / "cache"
    dataset, images, skipped = load_images(read_dataset(fracatlas), preprocessing, cache)
    assert images.shape == (58, 64, 64)
    assert images.dtype == np.uint8
    assert "images/IMG0010.png" not in dataset.images
    assert skipped == {Reason.VANISHED: 1, Reason.TRUNCATED: 1}
    kept = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    again = load_images(read_dataset(fracatlas), preprocessing, cache)
    np.testing.assert_array_equal(again[1], images)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == kept


def test_storage_that_fails_is_an_outage_and_marks_no_film_unreadable(fracatlas: Path, tmp_path: Path) -> None:
    dataset = read_dataset(fracatlas)
    fracatlas.rename(tmp_path / "away")
    with pytest.raises(ArchiveOutage):
        load_images(dataset, Preprocessing(64, "pad"), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_films_are_read_under_the_same_caps_as_in_screening(fracatlas: Path, tmp_path: Path) -> None:
    with (fracatlas / "images" / "IMG0020.png").open("r+b") as file:
        file.truncate(MAX_BYTES + 1)
    _, _, skipped = load_images(read_dataset(fracatlas), Preprocessing(64, "pad"), tmp_path / "cache")
    assert skipped[Reason.TOO_LARGE] == 1


def test_a_folder_with_no_readable_film_is_refused(fracatlas: Path, tmp_path: Path) -> None:
    for image in (fracatlas / "images").iterdir():
        image.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="none of the 60 images"):
        load_images(read_dataset(fracatlas), Preprocessing(64, "pad"), tmp_path / "cache")
