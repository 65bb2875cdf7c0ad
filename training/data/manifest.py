"""Archives with labels in a ``manifest.csv``."""

from dataclasses import replace
from pathlib import Path

from training.data.dataset import OWN_DATA, Dataset, Example, unlabelled_note
from training.data.read_annotations import with_coco_annotations
from xray.archives.layouts import MANIFEST_NAME
from xray.archives.manifest import ManifestRow, count_images, read_manifest
from xray.errors import UsageError
from xray.pseudonym import pseudonym
from xray.vocabulary import Label

ANNOTATIONS_NAME = "annotations.json"
# Keeps patients' names out of packages even if no key is set. It does not protect against guessing.
DEFAULT_KEY = b"bonescreen"


def read_manifest_dataset(folder: Path, pseudonym_key: bytes | None = None) -> Dataset:
    """Read ``manifest.csv`` (``study,image[,label,body_part,view,patient]``) as a data set.

    Images without a label are left out. The group is the patient, hashed; a study without a patient is its own group.
    Where the findings lie is read from a COCO file ``annotations.json`` beside it, whose ``file_name`` is the image's
    path in the manifest.

    Parameters
    ----------
    folder : Path
        The folder of the manifest, which its paths are relative to.
    pseudonym_key : bytes or None
        Key for the hashes of patients, as in screening.

    Raises
    ------
    UsageError
        If a line is wrong, a study has two patients, no line has a label, or an annotation is wrong.
    ArchiveOutage
        If the storage fails.
    """
    examples, unlabelled = [], 0
    patients: dict[str, str] = {}
    with (folder / MANIFEST_NAME).open("rb") as file:
        count_images(file)
        file.seek(0)
        for listed in read_manifest(file, pseudonym_key or DEFAULT_KEY):
            if not isinstance(listed, ManifestRow):
                raise UsageError(f"{folder / MANIFEST_NAME} {listed}")
            placement = listed.placement
            if placement.patient and patients.setdefault(placement.study, placement.patient) != placement.patient:
                raise UsageError(
                    f"{folder / MANIFEST_NAME} line {listed.line}: the study {placement.study!r} has two patients; a "
                    "study has one"
                )
            if placement.human_label is None:
                unlabelled += 1
                continue
            own_group = pseudonym(pseudonym_key or DEFAULT_KEY, placement.study)
            positive = placement.human_label is Label.POSITIVE
            examples.append(Example(listed.image, placement.study, own_group, positive, placement.body_part))
    if not examples:
        raise UsageError(f"{folder / MANIFEST_NAME} has no labels: add a column 'label' with positive or negative")
    # Assigned last, because only one of a study's lines may name the patient.
    grouped = tuple(replace(example, group=patients.get(example.study, example.group)) for example in examples)
    notes = (unlabelled_note(unlabelled),) if unlabelled else ()
    dataset = Dataset(folder, OWN_DATA, "finding", grouped, notes)
    if not (folder / ANNOTATIONS_NAME).is_file():
        return dataset
    positions = {example.image: at for at, example in enumerate(grouped)}
    return with_coco_annotations(dataset, folder / ANNOTATIONS_NAME, positions)
