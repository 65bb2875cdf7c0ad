"""On what terms the weights came to be: what a card must say of the backbone's first weights."""

import dataclasses
from dataclasses import replace
from pathlib import Path

from training.config import TrainingConfig
from training.data.dataset import Dataset
from training.data.fracatlas import FRACATLAS
from training.evaluate.held_out import ModelEvaluation
from training.fit.learner import Initial
from training.recipes import RECIPES, Recipe
from xray.images.preprocessing import Preprocessing
from xray.network.card import SCHEMA, Card, TrainingData
from xray.network.package import ModelPackage
from xray.vocabulary import BODY_PARTS, RESEARCH_NOTICE

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


WORDING = {"abnormality": "positive: abnormal"}

# What films of FracAtlas's flags turned out to show; docs/model.md says how that was judged.
FRACATLAS_BODY_PARTS = {
    "HAND": ("ELBOW", "FINGER", "FOREARM", "HAND", "WRIST"),
    "SHOULDER": ("HUMERUS", "SHOULDER"),
    "HIP": ("HIP", "PELVIS"),
    "LEG": ("ANKLE", "FEMUR", "FOOT", "KNEE", "LEG"),
}
FRACATLAS_LIMITS = (
    "FracAtlas is of a few hospitals in Bangladesh; other archives differ.",
    "Labels are noisy: some near-duplicate films have conflicting labels, one label contradicts its folder.",
    "There are no patient ids: groups are of near-duplicate and neighbouring files at best, not of patients.",
    "Casts, splints and metal go with fractures in the training data, so the model may see them instead.",
)


def make_card(order: TrainingConfig, judgement: ModelEvaluation, dataset: Dataset, faults: str) -> Card:
    """Make the card of a package.

    Parameters
    ----------
    order : Order
        What was asked for.
    judgement : Judgement
        What was measured.
    dataset : Dataset
        The N examples that could be read.
    faults : str
        What could not, by reason.
    """
    recipe = order.recipe
    return Card(
        schema=SCHEMA,
        name=recipe.name,
        version=recipe.version,
        backbone=recipe.backbone,
        head=recipe.head,
        finding=dataset.finding,
        wording=WORDING.get(dataset.finding, f"positive: {dataset.finding}"),
        body_parts=_scope(dataset),
        input_size=recipe.input_size,
        preprocessing=Preprocessing(recipe.input_size, recipe.geometry).id,
        image_threshold=judgement.image_threshold,
        study_threshold=judgement.study_threshold,
        calibration=judgement.calibration,
        heat_map_scale=judgement.heat_map_scale,
        training_data=(dataset.terms, *initial_terms(order.initial)),
        metrics=judgement.metrics,
        limits=_limits(order, dataset, faults),
        command=order.command,
        files={},
    )


def make_readme(card: Card) -> str:
    """Return the page for people, Markdown, from the card."""
    metrics = "\n".join(
        f"| {metric.population} | {metric.name} | {metric.value:.3f} | {metric.interval} |" for metric in card.metrics
    )
    data = "\n\n".join(
        f"**{each.name}**: {each.role}. Licence: {each.licence}. Terms: {each.terms}. {each.attribution}."
        for each in card.training_data
    )
    limits = "\n".join(f"- {limit}" for limit in card.limits)
    return f"""# {card.name}, version {card.version}

{card.backbone} with global average pooling and three dense layers ({card.head[0]}, {card.head[1]}, 1).
Says of a radiograph "{card.wording}" or not, with a probability and a class activation map.

**{RESEARCH_NOTICE}**

- input: {card.input_size} x {card.input_size} gray, preprocessing `{card.preprocessing}`
- body parts in scope: {", ".join(card.body_parts)}
- image threshold: {card.image_threshold.value:.4f} ({card.image_threshold.chosen})
- study threshold: {card.study_threshold.value:.4f} ({card.study_threshold.chosen})
- probability = sigmoid({card.calibration.slope:.4f} x logit {card.calibration.intercept:+.4f}), Platt's scaling
- heat maps: the top of the scale is a CAM value of {card.heat_map_scale:.3f}, the 95th percentile of the maxima
  of positive films that the network had not learnt from

## Metrics

95 % intervals by bootstrap of whole groups.

| images | metric | value | 95 % interval |
|---|---|---|---|
{metrics}

## Limits

{limits}

## Training data

{data}

## How it was made

By the recipe of this name and version (`bonescreen train {card.name} --show`):

```
{card.command}
```
"""


def _scope(dataset: Dataset) -> tuple[str, ...]:
    known = set(dataset.body_parts.tolist())
    if dataset.terms is FRACATLAS:
        known = {shown for part in known for shown in FRACATLAS_BODY_PARTS.get(part, ())}
    return tuple(part for part in BODY_PARTS if part in known) or BODY_PARTS


def _limits(order: TrainingConfig, dataset: Dataset, faults: str) -> tuple[str, ...]:
    recipe = order.recipe
    general = [
        f"{RESEARCH_NOTICE} It misses findings and flags normal films: read the metrics.",
        "Metrics are of held-out images of one data set; other archives differ.",
        "A heat map shows what spoke for the label, not where the finding is.",
        f"{len(dataset):,} images were used; unreadable and left out: {faults}.",
    ]
    if recipe.folds:
        general += [
            "Thresholds and calibration were chosen on the same out-of-fold results as the metrics at thresholds.",
            "Where a recipe's own numbers were chosen on folds of the same data set, as those of fracture were on "
            "FracAtlas, its metrics are flattered by that.",
            "The network that ships has learnt from all images, so none of this data set can test it.",
        ]
    if dataset.finding == "abnormality":
        general.append("MURA's labels say abnormal or not: a positive need not be a fracture.")
    if not any(dataset.body_parts):
        general.append("The data do not say which body parts they show, so no part is out of scope.")
    general += dataset.notes
    general += _changes(recipe)
    return (*general, *(FRACATLAS_LIMITS if dataset.terms is FRACATLAS else ()))


def _changes(recipe: Recipe) -> list[str]:
    """Say which of the recipe's numbers were others than it is known for."""
    known = RECIPES.get(recipe.name)
    if known is None or known == recipe:
        return []
    changed = [
        f"{field.name.replace('_', ' ')} {_text(getattr(recipe, field.name))}"
        for field in dataclasses.fields(recipe)
        if getattr(recipe, field.name) != getattr(known, field.name)
    ]
    return [f"Not quite the recipe {recipe.name} {recipe.version}: made with {'; '.join(changed)}."]


def _text(value: object) -> str:
    return ", then ".join(map(str, value)) if isinstance(value, tuple) else str(value)
