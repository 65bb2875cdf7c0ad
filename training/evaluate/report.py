"""The report of an evaluation, as a page and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from training.data.leakage import Leakage, LeakageVerdict
from training.evaluate.baseline import Comparison
from training.evaluate.evaluation import ALL, Evaluation
from training.evaluate.mistakes import Mistake
from training.evaluate.plots import (
    PlotData,
    confusion_figure,
    precision_recall_figure,
    reliability_figure,
    roc_figure,
)
from training.evaluate.pointing import Pointing
from training.evaluate.population import METRIC_NAMES, AtThreshold, Population
from training.evaluate.predictions import Predictions
from training.report_page import figure_png, render_page
from xray.network.card import Calibration
from xray.vocabulary import REASON_TEXT, RESEARCH_NOTICE

SCHEMA = 2
PAGE_FILE = "report.html"

LEAKAGE_TITLES = {
    LeakageVerdict.TRAINED_ON: "The model was trained on these images.",
    LeakageVerdict.TUNED_ON: "The model was tuned on these images.",
    LeakageVerdict.UNKNOWN: "Whether the model was trained on these images is not known.",
    LeakageVerdict.HELD_OUT: "The model was not trained on these images.",
}
_EXAMPLE_SIZE = 1000


@dataclass(frozen=True)
class Model:
    """The model that was evaluated; see :class:`xray.network.card.Card` for the fields."""

    name: str
    version: str
    digest: str
    finding: str
    wording: str
    body_parts: tuple[str, ...]
    calibration: Calibration
    engine: str


@dataclass(frozen=True)
class Data:
    """The data that it was evaluated on.

    Attributes
    ----------
    name, folder : str
        Name of the data set, and its folder.
    part : str
        One of :data:`training.data.leakage.PARTS`.
    listed, measured : int
        Images of that part, and those of them that could be read.
    unreadable : mapping of str to int
        Images left out, by reason code.
    notes : tuple of str
        Remarks of the reader of the data set.
    """

    name: str
    folder: str
    part: str
    listed: int
    measured: int
    unreadable: Mapping[str, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class EvaluationReport:
    """All that the page and the JSON file hold.

    Attributes
    ----------
    leakage : Leakage
        Whether the model was trained on these images.
    pointing : tuple of Pointing
        Whether the maps point at the findings; empty where none is marked.
    aim : str or None
        What thresholds were also chosen for on these data: the last ones of `evaluation`, whose numbers are optimistic.
    comparison : Comparison or None
        With a baseline, where there is one.
    """

    model: Model
    data: Data
    leakage: Leakage
    evaluation: Evaluation
    pointing: tuple[Pointing, ...]
    aim: str | None
    mistakes: tuple[Mistake, ...]
    comparison: Comparison | None

    @property
    def names(self) -> tuple[str, str]:
        """The names of the model and the baseline, with their digests where both have the same name."""
        name = f"{self.model.name} {self.model.version}"
        if self.comparison is None or self.comparison.name != name:
            return name, "" if self.comparison is None else self.comparison.name
        first, second = self.model.digest[:12], (self.comparison.digest or "not known")[:12]
        return f"{name} ({first})", f"{name} ({second})"

    def to_json(self) -> str:
        """Return the report as JSON text, in ASCII, with the research notice."""
        return json.dumps({"schema": SCHEMA, "notice": RESEARCH_NOTICE, **asdict(self)}, indent=2, allow_nan=False)


def evaluation_page(report: EvaluationReport, rows: Predictions, pictures: Sequence[bytes | None]) -> str:
    """Return the page, HTML.

    Parameters
    ----------
    report : EvaluationReport
        What was measured.
    rows : Predictions
        The images in scope.
    pictures : sequence of bytes or None
        JPEG of each of the report's mistakes, with its heat map.
    """
    evaluation, finding = report.evaluation, report.model.finding
    levels = [("image", evaluation.images, level_plots(PlotData(rows, evaluation.images), finding))]
    if not evaluation.studies_repeat_images:
        plots = level_plots(PlotData(rows.by_study(), evaluation.studies), finding)
        levels.append(("study", evaluation.studies, plots))
    return render_page(
        "evaluation.html.j2",
        report=report,
        leakage_title=LEAKAGE_TITLES[report.leakage.verdict],
        leaks=_leaks,
        consequence=consequence,
        levels=levels,
        mistakes=list(zip(report.mistakes, pictures, strict=True)),
        metrics=METRIC_NAMES,
        reasons={str(reason): text for reason, text in REASON_TEXT.items()},
        everyone=ALL,
    )


def _leaks(leakage: Leakage) -> bool:
    return leakage.verdict is not LeakageVerdict.HELD_OUT


def level_plots(data: PlotData, finding: str) -> list[tuple[str, bytes]]:
    """Draw the plots of one level: caption and PNG of each; none where there is one class only."""
    population = data.level.populations[0]
    if population.auroc is None:
        return []
    at = population.at[0]
    return [
        ("ROC curve with the operating point", figure_png(roc_figure(data))),
        ("Precision by recall", figure_png(precision_recall_figure(data))),
        (f"Confusion matrix at the threshold {at.threshold:.3f}", figure_png(confusion_figure(at, finding))),
        ("Reliability: the share of positives by probability", figure_png(reliability_figure(data))),
    ]


def consequence(at: AtThreshold, population: Population, what: str) -> str:
    """Describe what a threshold would mean for a thousand images or studies like these."""
    share = _EXAMPLE_SIZE / population.n
    flagged = at.true_positives + at.false_positives
    precision = f"{at.true_positives / flagged:.0%} of those flagged are positive" if flagged else "none is flagged"
    return (
        f"Of {_EXAMPLE_SIZE:,} {what} like these, {share * population.positives:.0f} are positive: "
        f"{share * at.true_positives:.0f} of them would be flagged and {share * at.false_negatives:.0f} missed. "
        f"Of the {share * (population.n - population.positives):.0f} negatives, {share * at.false_positives:.0f} would "
        f"be flagged as well; {precision}."
    )
