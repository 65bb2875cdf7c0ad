"""What of an evaluation goes on a package's card."""

from collections.abc import Iterator, Mapping, Sequence

from training.bootstrap import RATES
from training.evaluate import ALL, UPPER, Estimate, Evaluation, Population
from training.thresholds import Aim
from xray.card import Metric, Threshold


def card_metrics(evaluation: Evaluation, aims: Sequence[Aim], data: str, how: str) -> tuple[Metric, ...]:
    """Turn an evaluation into a card's metrics.

    All and the upper limb in every measure, other populations in AUROC alone; studies where they are not single images.

    Parameters
    ----------
    evaluation : Evaluation
        What was measured.
    aims : sequence of Aim
        What each of the evaluation's thresholds was chosen for, of images and of studies alike.
    data : str
        Name of the data set: ``"FracAtlas"``.
    how : str
        How it was measured: ``"out of fold"``.
    """
    levels = [("images", evaluation.images)]
    if not evaluation.one_image_a_study:
        levels.append(("studies", evaluation.studies))
    return tuple(
        Metric(measure, f"{data}, {rows}{_of(p)} (n={p.n}, positive {p.positives}), {how}", e.value, e.low, e.high)
        for rows, level in levels
        for p in level.populations
        for measure, e in _named(p, _cuts(level.thresholds, aims))
        if e is not None
    )


def _of(population: Population) -> str:
    return {ALL: "", UPPER: " of the upper limb"}.get(population.name, f" of {population.name}")


def _named(population: Population, cuts: Mapping[float, str]) -> Iterator[tuple[str, Estimate | None]]:
    yield "AUROC", population.auroc
    if population.name not in (ALL, UPPER):
        return
    yield "average precision", population.average_precision
    for cut, at in {at.threshold: at for at in population.at}.items():
        for name, estimate in zip(RATES, (at.sensitivity, at.specificity, at.accuracy, at.kappa), strict=True):
            yield f"{name} at {cuts[cut]}", estimate


def _cuts(thresholds: Sequence[Threshold], aims: Sequence[Aim]) -> dict[float, str]:
    """Name each threshold once, with the aims that it was chosen for."""
    labels: dict[float, list[str]] = {}
    for threshold, aim in zip(thresholds, aims, strict=True):
        labels.setdefault(threshold.value, []).append(aim.label)
    return {cut: f"{cut:.3f} ({', '.join(names)})" for cut, names in labels.items()}
