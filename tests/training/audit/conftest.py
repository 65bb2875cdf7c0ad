"""A data set with one fault of each kind, audited once; and data sets of made-up images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.audit.faulty_data import limb, write_faulty_data
from training.audit.audited_dataset import AuditedDataset, audit_dataset
from training.audit.problems import Problem, all_problems
from training.audit.read_images import AuditedImage, read_images
from training.data.dataset import Dataset, Example
from training.data.fracatlas import FRACATLAS
from training.data.read_dataset import read_dataset
from training.progress import Progress


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("audit") / "data"
    write_faulty_data(made)
    return made


@pytest.fixture(scope="session")
def audited(folder: Path) -> AuditedDataset:
    dataset = read_dataset(folder)
    return audit_dataset(dataset, read_images(dataset), None, Progress())


def by_code(audited: AuditedDataset) -> dict[str, Problem]:
    return {problem.code: problem for problem in all_problems(audited)}


def file_names(problem: Problem) -> set[frozenset[str]]:
    return {frozenset(Path(image).name for image in together) for together in problem.images}


def audit_distinct(examples: list[Example], root: Path = Path()) -> AuditedDataset:
    """Audit images that are all different and readable, by their labels and groups alone."""
    files = [audited_image(limb(seed), str(seed)) for seed in range(len(examples))]
    return audit_dataset(Dataset(root, FRACATLAS, "fracture", tuple(examples)), files, None, Progress())


def audited_image(gray: np.ndarray, name: str) -> AuditedImage:
    small = Image.fromarray(gray).resize((64, 64), Image.Resampling.BILINEAR)
    return AuditedImage(name, name, *gray.shape, small.tobytes())
