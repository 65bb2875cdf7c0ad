"""A data set with one fault of each kind, examined once; and data sets of made-up images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.audit.faulty_data import limb, write_faulty_data
from training.audit.examination import Examination, examine
from training.audit.findings import Finding, all_findings
from training.audit.survey import AuditedImage, survey
from training.data.dataset import Dataset, Example
from training.data.fracatlas import FRACATLAS
from training.data.read_dataset import read_dataset


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("audit") / "data"
    write_faulty_data(made)
    return made


@pytest.fixture(scope="session")
def examination(folder: Path) -> Examination:
    dataset = read_dataset(folder)
    return examine(dataset, survey(dataset), None)


def by_code(examination: Examination) -> dict[str, Finding]:
    return {finding.code: finding for finding in all_findings(examination)}


def file_names(finding: Finding) -> set[frozenset[str]]:
    return {frozenset(Path(image).name for image in together) for together in finding.images}


def examine_distinct(examples: list[Example], root: Path = Path()) -> Examination:
    """Examine images that are all different and readable, by their labels and groups alone."""
    files = [audited(limb(seed), str(seed)) for seed in range(len(examples))]
    return examine(Dataset(root, FRACATLAS, "fracture", tuple(examples)), files, None)


def audited(gray: np.ndarray, name: str) -> AuditedImage:
    small = Image.fromarray(gray).resize((64, 64), Image.Resampling.BILINEAR)
    return AuditedImage(name, name, *gray.shape, small.tobytes())
