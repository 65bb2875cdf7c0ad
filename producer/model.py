"""What the ledger keeps of a model package; reads the card, never the weights."""

from db.runs import ModelVersion
from xray.message import PRECISION, queue_name
from xray.package import ModelPackage


def model_version(package: ModelPackage) -> ModelVersion:
    """Describe a package to the ledger, at the precision that both engines run it in."""
    card = package.card
    return ModelVersion(
        name=card.name,
        version=card.version,
        digest=package.digest,
        precision=PRECISION,
        finding=card.finding,
        image_threshold=card.image_threshold.value,
        study_threshold=card.study_threshold.value,
        body_parts=tuple(card.body_parts),
        queue=queue_name(package.digest, PRECISION),
    )
