"""Reading labelled data sets: MURA as downloaded or as folders, FracAtlas, and manifests."""

import shutil
from pathlib import Path

import pytest

from training.data.dataset import Role
from training.data.read_dataset import read_dataset
from xray.errors import UsageError


def published(mura: Path, tmp_path: Path, valid: int = 4) -> Path:
    """Turn a folder into MURA v1.1 as downloaded: the last studies in valid/, with tables."""
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


def test_mura_as_downloaded_is_read_by_its_tables_from_its_folder_and_from_the_parent_folder(
    mura: Path, tmp_path: Path
) -> None:
    root = published(mura, tmp_path)
    dataset = read_dataset(root)
    assert (len(dataset), int(dataset.labels.sum())) == (48, 24)
    assert set(dataset.body_parts.tolist()) == {"HUMERUS"}
    assert [example.role for example in dataset.examples].count(Role.TEST) == 8
    assert dataset.examples[0].study == "train/XR_HUMERUS/patient00000/study1_negative"
    assert dataset.examples[0].group == "patient00000"
    (parent := tmp_path / "parent").mkdir()
    root.rename(parent / "MURA-v1.1")
    assert read_dataset(parent).examples == dataset.examples
    shutil.rmtree(parent / "MURA-v1.1/valid")
    for table in (parent / "MURA-v1.1").glob("*.csv"):
        table.unlink()
    assert len(read_dataset(parent / "MURA-v1.1")) == 40


def test_the_tables_label_is_used_where_the_folder_has_another_and_a_note_says_so(mura: Path, tmp_path: Path) -> None:
    root = published(mura, tmp_path)
    table = root / "train_labeled_studies.csv"
    table.write_text(table.read_text().replace("study1_negative/,0", "study1_negative/,1", 1))
    dataset = read_dataset(root)
    assert int(dataset.labels.sum()) == 26
    assert "studies with one label in the table and a different one in their folder's name: 1;" in dataset.notes[0]


def test_a_patient_in_both_train_and_valid_is_refused_by_name(mura: Path, tmp_path: Path) -> None:
    root = published(mura, tmp_path)
    line = "MURA-v1.1/valid/XR_HUMERUS/patient00000/study2_negative"
    with (root / "valid_image_paths.csv").open("a") as file:
        file.write(f"{line}/image1.png\n")
    with pytest.raises(UsageError, match="patient00000 is in both train/ and valid/"):
        read_dataset(root)


def test_mura_without_tables_is_read_by_its_folders(mura: Path) -> None:
    for folder in (mura, mura / "XR_HUMERUS"):
        dataset = read_dataset(folder)
        assert (len(dataset), int(dataset.labels.sum()), len(set(dataset.groups.tolist()))) == (48, 24, 24)
        assert set(dataset.body_parts.tolist()) == {"HUMERUS"}


def test_fracatlas_is_read_with_its_groups_and_body_parts(fracatlas: Path) -> None:
    dataset = read_dataset(fracatlas)
    assert (len(dataset), int(dataset.labels.sum()), len(set(dataset.groups.tolist()))) == (60, 20, 12)
    assert (dataset.body_parts == "HAND").sum() == 30
    assert dataset.finding == "fracture"


def test_fracatlas_as_published_has_no_groups_unless_a_groups_file_is_given(fracatlas: Path, tmp_path: Path) -> None:
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
    with pytest.raises(UsageError, match=r"the groups file has no group for the image 'images/IMG0001\.png'"):
        read_dataset(fracatlas, groups=groups)


def test_a_manifest_gives_labels_body_parts_and_hashed_patients(tmp_path: Path) -> None:
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
    assert dataset.notes == ("left out 1 image without a label",)


def test_a_study_stays_in_one_group_if_only_one_of_its_lines_names_the_patient(tmp_path: Path) -> None:
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
        (
            "labels.csv",
            "image,fractured,hand,leg,hip,shoulder,group\na,2,0,0,0,0,1\n",
            "line 2: fractured is not 0 or 1",
        ),
        (
            "labels.csv",
            "image,fractured,hand,leg,hip,shoulder,group\n../a,1,0,0,0,0,1\n",
            "line 2: image is not a file",
        ),
        ("labels.csv", "image,fractured,hand,leg,hip,shoulder,group\na,1,0,0,0,0,1\na,1,0,0,0,0,1\n", "listed 2 times"),
        ("manifest.csv", "study,image\ns,a.png\n", "has no labels: add a column 'label'"),
        ("manifest.csv", "study,image,label\ns,a.png,maybe\n", "line 2: the label 'maybe' is neither"),
        ("elsewhere.csv", "", "is not a labelled data set"),
    ],
)
def test_invalid_data_are_refused_with_the_reason(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_dataset(tmp_path)


def test_a_missing_body_part_is_refused_with_a_list_of_the_body_parts_in_the_data(fracatlas: Path) -> None:
    assert len(read_dataset(fracatlas, body_parts=["HAND"])) == 30
    with pytest.raises(UsageError, match=r"has no images of HUMERUS\. It has LEG \(30\), HAND \(30\)"):
        read_dataset(fracatlas, body_parts=["HUMERUS"])
