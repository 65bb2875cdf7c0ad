"""Any archive whose ``manifest.csv`` says the labels."""

from dataclasses import replace
from pathlib import Path

from training.data.dataset import Dataset, Example
from xray.archives.layouts import MANIFEST_NAME
from xray.archives.manifest import ManifestRow, count_images, read_manifest
from xray.errors import UsageError
from xray.network.card import TrainingData
from xray.pseudonym import pseudonym
from xray.vocabulary import Label

OWN = TrainingData(
    name="own data",
    role="the weights learnt, thresholds, calibration and metrics",
    licence="not known: the data's owner decides",
    terms="not known: ask the data's owner before a model trained on them is passed on",
    attribution="none given",
)

# A patient's name must not reach a package in clear even where no key is set; against guessing it does not help.
NO_KEY = b"bonescreen"


def read_listed(folder: Path, pseudonym_key: bytes | None = None) -> Dataset:
    """Read ``manifest.csv`` (``study,image[,label,body_part,view,patient]``); images without a label are left out.

    The patient is the group, hashed; a study without one is its own group.

    Parameters
    ----------
    folder : Path
        Holds the manifest; its paths begin here.
    pseudonym_key : bytes or None
        Key of the patients' hashes, as in screening.

    Raises
    ------
    UsageError
        If a line is wrong, a study has two patients, or no line has a label.
    """
    examples, unlabelled = [], 0
    patients: dict[str, str] = {}
    with (folder / MANIFEST_NAME).open("rb") as file:
        count_images(file)
        file.seek(0)
        for listed in read_manifest(file, pseudonym_key or NO_KEY):
            if not isinstance(listed, ManifestRow):
                raise UsageError(f"{folder / MANIFEST_NAME} {listed}")
            placed = listed.placement
            if placed.patient and patients.setdefault(placed.study, placed.patient) != placed.patient:
                raise UsageError(
                    f"{folder / MANIFEST_NAME} line {listed.line}: the study {placed.study!r} has two patients, "
                    "and a study is of one"
                )
            if placed.human_label is None:
                unlabelled += 1
                continue
            alone = pseudonym(pseudonym_key or NO_KEY, placed.study)
            positive = placed.human_label is Label.POSITIVE
            examples.append(Example(listed.image, placed.study, alone, positive, placed.body_part))
    if not examples:
        raise UsageError(f"{folder / MANIFEST_NAME} has no labels: its column 'label' says positive or negative")
    # Only now, as one line of a study may name the patient and the others not.
    grouped = tuple(replace(example, group=patients.get(example.study, example.group)) for example in examples)
    notes = (f"{unlabelled:,} images without a label were left out",) if unlabelled else ()
    return Dataset(folder, OWN, "finding", grouped, notes)
