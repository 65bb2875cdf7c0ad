"""What an evaluation's page and its JSON say, as plain values."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from training.data.leakage import Leakage
from training.evaluate.baseline import Comparison
from training.evaluate.evaluation import ALL, AtThreshold, Evaluation, Population
from training.evaluate.mistakes import Mistake
from training.evaluate.plots import (
    Curve,
    confusion_figure,
    png,
    precision_recall_figure,
    reliability_figure,
    roc_figure,
)
from training.evaluate.predictions import Predictions
from xray.network.card import Calibration
from xray.vocabulary import REASON_TEXT, RESEARCH_NOTICE

SCHEMA = 1


@dataclass(frozen=True)
class Model:
    """The model that was measured; see :class:`xray.network.card.Card` for the fields."""

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
    """What it was measured on.

    Attributes
    ----------
    name, folder : str
        The data set's, and where it lies.
    part : str
        One of :data:`training.data.leakage.PARTS`.
    listed, measured : int
        Images of that part, and those of them that could be read.
    unreadable : mapping of str to int
        Images left out, by reason code.
    notes : tuple of str
        What the reader of the data noticed.
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
    """All of it.

    Attributes
    ----------
    aim : str or None
        What thresholds were also chosen for on these data: the last ones of `evaluation`, which flatter.
    """

    model: Model
    data: Data
    seen: Leakage
    evaluation: Evaluation
    aim: str | None
    mistakes: tuple[Mistake, ...]
    comparison: Comparison | None

    @property
    def names(self) -> tuple[str, str]:
        """The model and the one it is compared with, told apart by their digests where they are called alike."""
        name = f"{self.model.name} {self.model.version}"
        if self.comparison is None or self.comparison.name != name:
            return name, "" if self.comparison is None else self.comparison.name
        first, second = self.model.digest[:12], (self.comparison.digest or "not known")[:12]
        return f"{name} ({first})", f"{name} ({second})"

    def to_json(self) -> str:
        """Return the report as JSON text, in ASCII, with the research notice."""
        return json.dumps({"schema": SCHEMA, "notice": RESEARCH_NOTICE, **asdict(self)}, indent=2, allow_nan=False)


FILMS = 1000

_MEASURES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "kappa": "Cohen's kappa",
}


def render_page(report: EvaluationReport, rows: Predictions, pictures: Sequence[bytes | None]) -> str:
    """Render the page.

    Parameters
    ----------
    report : Report
        What was measured.
    rows : Predictions
        The images in scope.
    pictures : sequence of bytes or None
        JPEG of each of the report's mistakes, with its heat map.
    """
    environment = Environment(
        loader=PackageLoader("training", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_url=data_url, consequence=consequence, count="{:,}".format)
    evaluation, finding = report.evaluation, report.model.finding
    levels = [("image", evaluation.images, figures(Curve(rows, evaluation.images), finding))]
    if not evaluation.studies_repeat_images:
        levels.append(("study", evaluation.studies, figures(Curve(rows.by_study(), evaluation.studies), finding)))
    return environment.get_template("page.html.j2").render(
        report=report,
        levels=levels,
        mistakes=list(zip(report.mistakes, pictures, strict=True)),
        measures=_MEASURES,
        reasons={str(reason): text for reason, text in REASON_TEXT.items()},
        everyone=ALL,
        notice=RESEARCH_NOTICE,
    )


def figures(curve: Curve, finding: str) -> list[tuple[str, bytes]]:
    """Draw a level's pictures: what each shows, and PNG; none where there is one class only."""
    everyone = curve.level.populations[0]
    if everyone.auroc is None:
        return []
    at = everyone.at[0]
    return [
        ("ROC curve with the operating point", png(roc_figure(curve))),
        ("Precision by recall", png(precision_recall_figure(curve))),
        (f"Confusion at the threshold {at.threshold:.3f}", png(confusion_figure(at, finding))),
        ("Reliability: the share of positives by probability", png(reliability_figure(curve))),
    ]


def consequence(at: AtThreshold, population: Population, what: str) -> str:
    """Say what a threshold would mean for a thousand images or studies like these."""
    share = FILMS / population.n
    flagged = at.true_positives + at.false_positives
    right = f"{at.true_positives / flagged:.0%} of those flagged are positive" if flagged else "none is flagged"
    return (
        f"Of {FILMS:,} {what} like these, {share * population.positives:.0f} are positive: "
        f"{share * at.true_positives:.0f} of them would be flagged and {share * at.false_negatives:.0f} missed. "
        f"Of the {share * (population.n - population.positives):.0f} negatives, {share * at.false_positives:.0f} would "
        f"be flagged as well; {right}."
    )


def data_url(picture: bytes) -> str:
    """Return a PNG or JPEG as a URL that holds it."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
