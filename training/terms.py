"""On what terms the weights came to be: what a card must say of the backbone's first weights."""

from dataclasses import replace
from pathlib import Path

from training.learner import Initial
from xray.card import TrainingData
from xray.package import ModelPackage

IMAGENET = TrainingData(
    name="ImageNet (ILSVRC 2012)",
    role="the backbone's first weights, as published with Keras Applications",
    licence="weights: as Keras Applications states for the backbone, BSD-3-Clause for DenseNet (Copyright (c) 2016, "
    "Zhuang Liu; text in bonescreen's LICENSES); images: not here",
    terms="ImageNet grants access to its images for non-commercial research and education",
    attribution="Russakovsky et al. 2015, IJCV; weights: converted by Keras Applications",
)


def initial_terms(initial: Initial) -> tuple[TrainingData, ...]:
    """Return what a card says of the data that the first weights have seen; nothing for random numbers."""
    if initial is None:
        return ()
    if isinstance(initial, ModelPackage):
        card = initial.card
        return tuple(
            replace(data, role=f"the backbone's first weights, by the package {card.name} {card.version}")
            for data in card.training_data
        )
    if isinstance(initial, Path) and "imagenet" not in initial.name.lower():
        return (
            TrainingData(
                name=f"the weights file {initial.name}",
                role="the backbone's first weights",
                licence="not known",
                terms="not known: ask where the file comes from before the model is passed on",
                attribution="none given",
            ),
        )
    if isinstance(initial, Path):
        return (replace(IMAGENET, role=f"the backbone's first weights, from {initial.name}, ImageNet's by its name"),)
    return (IMAGENET,)
