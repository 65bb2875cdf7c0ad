"""The report as one HTML file, pictures inside: no network, no script."""

import base64
from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from training.evaluate import ALL, AtThreshold, Estimate, Evaluation, Population
from training.plots import Curve, confusion_figure, png, precision_recall_figure, reliability_figure, roc_figure
from training.predictions import Predictions
from training.report.report import Report
from xray.vocabulary import REASON_TEXT, RESEARCH_NOTICE

FILMS = 1000

_MEASURES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "accuracy": "accuracy",
    "kappa": "Cohen's kappa",
}


def render_page(
    report: Report, images: Sequence[Curve], studies: Sequence[Curve], pictures: Sequence[bytes | None]
) -> str:
    """Render the page.

    Parameters
    ----------
    report : Report
        What was measured.
    images, studies : sequence of Curve
        The model and, if it was compared with another, that one; `studies` is empty where they are single images.
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
    environment.filters.update(estimate=estimate_text, data_url=data_url, consequence=consequence, count="{:,}".format)
    levels = [("image", report.evaluation.images, figures(images, report.model.finding))]
    if studies:
        levels.append(("study", report.evaluation.studies, figures(studies, report.model.finding)))
    return environment.get_template("page.html.j2").render(
        report=report,
        levels=levels,
        mistakes=list(zip(report.mistakes, pictures, strict=True)),
        measures=_MEASURES,
        reasons={str(reason): text for reason, text in REASON_TEXT.items()},
        everyone=ALL,
        notice=RESEARCH_NOTICE,
    )


def curves_of(name: str, rows: Predictions, evaluation: Evaluation) -> tuple[list[Curve], list[Curve]]:
    """Return the curves of images and of studies; none of studies where they would be those of images again."""
    images, studies = evaluation.images, evaluation.studies
    again = evaluation.one_image_a_study and images.populations == studies.populations
    return [Curve(name, rows, images)], [] if again else [Curve(name, rows.by_study(), studies)]


def figures(curves: Sequence[Curve], finding: str) -> list[tuple[str, bytes]]:
    """Draw a level's pictures: what each shows, and PNG; none where there is one class only."""
    first = curves[0]
    everyone = first.level.populations[0]
    if everyone.auroc is None:
        return []
    at = everyone.at[0]
    return [
        ("ROC curve with the operating point", png(roc_figure(curves))),
        ("Precision by recall", png(precision_recall_figure(curves))),
        (f"Confusion at the threshold {at.threshold:.3f}", png(confusion_figure(at, finding))),
        ("Reliability: the share of positives by probability", png(reliability_figure(first.rows, first.level))),
    ]


def estimate_text(estimate: Estimate | None) -> str:
    """Write a number with its interval, in one line."""
    if estimate is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


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
