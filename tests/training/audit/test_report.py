"""The report of an audit, and its suggested groups."""

from pathlib import Path

from tests.training.audit.conftest import by_code, file_names
from training.audit.audited_dataset import AuditedDataset, audit_dataset
from training.audit.read_images import read_images
from training.audit.report import AuditReport
from training.data.dataset import Dataset, Example
from training.data.fracatlas import FRACATLAS
from training.data.read_dataset import read_dataset, read_groups
from training.progress import Progress
from xray.vocabulary import Reason


def test_the_suggested_groups_join_duplicates_in_two_groups(audited: AuditedDataset, folder: Path) -> None:
    assert file_names(by_code(audited)["across-groups"]) == {frozenset({"image16.png", "elsewhere.jpg"})}
    groups = AuditReport.of(audited, audited.listed).groups
    assert groups["images/elsewhere.jpg"] == groups["images/image16.png"] == groups["images/image17.png"]
    assert groups["images/image18.png"] == "p09"
    assert len(set(groups.values())) == 30


def test_data_without_a_readable_image_have_a_report(tmp_path: Path) -> None:
    examples = tuple(Example(f"{i}.png", f"{i}", f"{i}", i % 2 == 0) for i in range(3))
    dataset = Dataset(tmp_path, FRACATLAS, "fracture", examples)
    # an empty folder would be a disk that is not mounted
    (tmp_path / "notes.txt").write_text("moved")
    assert list(read_images(dataset)) == [Reason.VANISHED] * 3
    AuditReport.of(audit_dataset(dataset, read_images(dataset), None, Progress()), dataset).write(tmp_path / "out")
    assert "the file is no longer in the archive" in (tmp_path / "out" / "report.html").read_text()


def test_the_suggested_groups_can_be_used_for_training(audited: AuditedDataset, folder: Path, tmp_path: Path) -> None:
    AuditReport.of(audited, audited.listed).write(tmp_path)
    assert len(read_groups(tmp_path / "groups.csv")) == len(audited.listed)
    again = read_dataset(folder, groups=tmp_path / "groups.csv")
    assert "across-groups" not in by_code(audit_dataset(again, read_images(again), None, Progress()))
