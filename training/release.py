"""The card of a trained package, and its page for people."""

from training.evaluate import Evaluation
from training.recipe import Recipe
from xray.card import SCHEMA, Card, TrainingData
from xray.pixels import Preprocessing
from xray.vocabulary import RESEARCH_NOTICE

# What FracAtlas's flags (hand, shoulder, leg, hip) turned out to show; docs/model.md says how that was judged.
FRACATLAS_BODY_PARTS = (
    "ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST",
    "ANKLE", "FEMUR", "FOOT", "HIP", "KNEE", "LEG", "PELVIS",
)  # fmt: skip

IMAGENET = TrainingData(
    name="ImageNet (ILSVRC 2012)",
    role="the backbone's weights, as published with Keras Applications",
    licence="weights: BSD-3-Clause (Copyright (c) 2016, Zhuang Liu; text in bonescreen's LICENSES); images: not here",
    terms="ImageNet grants access to its images for non-commercial research and education",
    attribution="Russakovsky et al. 2015, IJCV; weights: Huang et al. 2017, CVPR, converted by Keras Applications",
)
FRACATLAS = TrainingData(
    name="FracAtlas",
    role="the head's weights, thresholds, calibration and metrics; the golden images are taken from it",
    licence="CC-BY-4.0 (https://creativecommons.org/licenses/by/4.0/)",
    terms="attribution; images reduced to at most 640 px on the long side, then preprocessed",
    attribution="Abedeen et al., FracAtlas: A Dataset for Fracture Classification, Localization and Segmentation of "
    "Musculoskeletal Radiographs, Scientific Data 10, 521 (2023), https://doi.org/10.1038/s41597-023-02432-4",
)


def make_card(recipe: Recipe, evaluation: Evaluation, scale: float, images: int, faults: str, weights: str) -> Card:
    """Make the card of a package trained on FracAtlas.

    Parameters
    ----------
    recipe : Recipe
        What was done.
    evaluation : Evaluation
        What was measured.
    scale : float
        The heat map's scale, logit units.
    images : int
        How many were used.
    faults : str
        How many could not be read, by reason.
    weights : str
        File name of the backbone's weights.
    """
    return Card(
        schema=SCHEMA,
        name=recipe.name,
        version=recipe.version,
        backbone=recipe.backbone,
        head=recipe.head,
        finding="fracture",
        wording="positive: fracture",
        body_parts=FRACATLAS_BODY_PARTS,
        input_size=recipe.input_size,
        preprocessing=Preprocessing(recipe.input_size, recipe.geometry).id,
        image_threshold=evaluation.image_threshold,
        study_threshold=evaluation.study_threshold,
        calibration=evaluation.calibration,
        heat_map_scale=scale,
        training_data=(FRACATLAS, IMAGENET),
        metrics=evaluation.metrics,
        limits=(
            f"{RESEARCH_NOTICE} It misses fractures and flags normal films: read the metrics.",
            "Metrics are of cross-validation within one data set (hospitals in Bangladesh); other archives differ.",
            "Labels are noisy: some near-duplicate films have conflicting labels, one label contradicts its folder.",
            "There are no patient ids: folds part groups of near-duplicate and neighbouring files, not patients.",
            "Thresholds and calibration were chosen on the same out-of-fold results as the metrics at thresholds.",
            "The head that ships was fitted to all images, so no image of FracAtlas can test it.",
            "The backbone is frozen ImageNet; a heat map shows what spoke for the label, not where a fracture is.",
            "Casts, splints and metal go with fractures in the training data, so the model may see them instead.",
            f"{images} images were used; unreadable and left out: {faults}.",
        ),
        command=f"bonescreen train {recipe.name} --data FRACATLAS --weights {weights} --out OUT",
        files={},
    )


def make_readme(card: Card) -> str:
    """Return the page for people, Markdown, from the card."""
    metrics = "\n".join(
        f"| {metric.population} | {metric.name} | {metric.value:.3f} | {metric.low:.3f} to {metric.high:.3f} |"
        for metric in card.metrics
    )
    data = "\n\n".join(
        f"**{each.name}**: {each.role}. Licence: {each.licence}. Terms: {each.terms}. {each.attribution}."
        for each in card.training_data
    )
    limits = "\n".join(f"- {limit}" for limit in card.limits)
    return f"""# {card.name}, version {card.version}

{card.backbone}, frozen, with global average pooling and three dense layers ({card.head[0]}, {card.head[1]}, 1).
Says of a radiograph "{card.wording}" or not, with a probability and a class activation map.

**{RESEARCH_NOTICE}**

- input: {card.input_size} x {card.input_size} gray, preprocessing `{card.preprocessing}`
- body parts in scope: {", ".join(card.body_parts)}
- image threshold: {card.image_threshold.value:.4f} ({card.image_threshold.chosen})
- study threshold: {card.study_threshold.value:.4f} ({card.study_threshold.chosen})
- probability = sigmoid({card.calibration.slope:.4f} x logit {card.calibration.intercept:+.4f}): Platt's scaling,
  fitted to out-of-fold logits
- heat maps: the top of the scale is a CAM value of {card.heat_map_scale:.3f}, the 95th percentile of the maxima
  of fractured films, out of fold

## Metrics

Grouped, stratified cross-validation; 95 % intervals by bootstrap of groups.

| images | metric | value | 95 % interval |
|---|---|---|---|
{metrics}

## Limits

{limits}

## Training data

{data}

## How it was made

By `training/recipe.py`'s recipe of this name and version:

```
{card.command}
```
"""
