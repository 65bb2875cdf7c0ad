"""The report of a run: what is in it, and the HTML file that is written study by study."""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from itertools import groupby
from typing import TYPE_CHECKING, BinaryIO

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bonescreen.chosen_studies import stream_studies
from bonescreen.pictures import package_of
from bonescreen.problems import is_open
from bonescreen.report.histogram import draw_histogram
from bonescreen.report.performance import measure_performance
from bonescreen.report.pictures import MOST_IMAGES, ReportImage, legend_colours, report_images
from bonescreen.results_table import count_studies
from db.failures import count_failures
from db.queries import ResultFilter, Study, StudyRow
from db.report_queries import count_scores
from db.reviews import NOTE_CHARACTERS, agreement
from db.run_queries import RunSummary
from db.session import Database
from db.worklist_search import WorklistFilter
from xray.archive_root import Root
from xray.errors import ArchiveOutage
from xray.printable import escape_unprintable
from xray.settings import Settings
from xray.vocabulary import REASON_REMEDY, RESEARCH_NOTICE, Decision, Reason, StudyStatus, count, reason_text

if TYPE_CHECKING:
    from xray.network.card import Metric
    from xray.network.package import ModelPackage

BINS = 20


@dataclass(frozen=True)
class ReportStudy:
    """A study as the report shows it.

    Attributes
    ----------
    number : int
        Its place in the report, from 1.
    row : StudyRow
    result : str
        In words.
    images : list of ReportImage
    more_images : int
        How many are not shown.
    problem : str or None
        Why there are no pictures.
    facts : dict
        What its line in the CSV of reviews says of it.
    """

    number: int
    row: StudyRow
    result: str
    images: list[ReportImage]
    more_images: int
    problem: str | None
    facts: dict[str, object]


@dataclass
class Drawn:
    """How many images were drawn, and what could not be."""

    studies: int = 0
    problems: int = 0


def write_report(
    database: Database,
    run: RunSummary,
    settings: Settings,
    roots: Mapping[str, Root],
    file: BinaryIO,
    *,
    flagged: bool,
    limit: int,
    step: Callable[[int], object],
) -> Drawn:
    """Write the report of a run.

    Parameters
    ----------
    database : Database
    run : RunSummary
    settings : Settings
    roots : mapping of str to Path or DicomWebService
        The archives' roots on this host.
    file : BinaryIO
        Open for writing; a study's pictures are written before the next one's are drawn.
    flagged : bool
        Show flagged studies only.
    limit : int
        Show at most so many studies, the highest score first.
    step : callable
        Called with 1 after each study.
    """
    drawn, package = Drawn(), package_of(settings, run.digest)
    wanted = WorklistFilter(run.run, flagged=flagged)
    shown = stream_studies(database, wanted, limit, settings.keep)
    studies = _studies((study for _, study in shown), package, roots, run, drawn, step)
    values = {
        **_summary(database, run, package),
        "studies": studies,
        "flagged_only": flagged,
        "limit": limit,
        "listed": min(limit, run.flagged if flagged else run.studies),
        "wanted": run.flagged if flagged else run.studies,
    }
    for chunk in _environment().get_template("report.html.j2").generate(values):
        file.write(chunk.encode("utf-8", "backslashreplace"))
    return drawn


def _summary(database: Database, run: RunSummary, package: "ModelPackage | None") -> dict[str, object]:
    """Return what the template needs besides the studies."""
    style, script = _asset("report.css"), _asset("report.js")
    card = package.card if package else None
    return {
        "notice": RESEARCH_NOTICE,
        "run": run,
        "unfinished": f"{run.state}, {run.percent} % processed" if _is_unfinished(run) else None,
        "written_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "counts": count_studies(database, ResultFilter(run=run.run)),
        "histogram": draw_histogram(count_scores(database, run.run, BINS), run.study_threshold),
        "performance": measure_performance(database, run),
        "failures": [
            (
                reason,
                number,
                reason_text(reason),
                REASON_REMEDY.get(Reason(reason), "") if reason in set(Reason) else "",
            )
            for reason, number in count_failures(database, run.run).items()
        ],
        "reviews": agreement(database, run.run),
        "card": card,
        "metrics": _by_population(card.metrics) if card else [],
        "limits": [*(card.limits if card else ()), *(() if card and _says_notice(card.limits) else (RESEARCH_NOTICE,))],
        "legend": legend_colours(),
        "most_images": MOST_IMAGES,
        "note_characters": NOTE_CHARACTERS,
        "decisions": list(Decision),
        "style": style,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _is_unfinished(run: RunSummary) -> bool:
    # Nothing happens in a cancelled run, and yet it has not read all images.
    return is_open(run) or run.processed < run.images


def _says_notice(limits: Sequence[str]) -> bool:
    return any(RESEARCH_NOTICE in limit for limit in limits)


def _by_population(metrics: "Sequence[Metric]") -> "list[tuple[str, list[Metric]]]":
    return [(name, list(group)) for name, group in groupby(metrics, lambda metric: metric.population)]


def _studies(
    studies: Iterator[Study],
    package: "ModelPackage | None",
    roots: Mapping[str, Root],
    run: RunSummary,
    drawn: Drawn,
    step: Callable[[int], object],
) -> Iterator[ReportStudy]:
    outage: str | None = None
    for number, study in enumerate(studies, 1):
        images: list[ReportImage] = []
        more = len(study.images)
        if outage is None:
            try:
                images, more = report_images(study, package, roots)
            except ArchiveOutage as error:
                # The others are in the same archive, and each might wait as long.
                outage = str(error)
        drawn.studies += 1
        drawn.problems += sum(image.problem is not None for image in images) + (outage is not None)
        yield ReportStudy(number, study.row, _result(study.row, run), images, more, outage, _facts(study.row, run))
        step(1)


def _result(row: StudyRow, run: RunSummary) -> str:
    """Say a study's result in words; only one whose images were all read is called negative."""
    if row.label == "positive":
        unread = "" if row.status == StudyStatus.SCORED else f" ({row.status})"
        return f"positive: {run.finding}{unread}"
    return row.label or row.status


def _facts(row: StudyRow, run: RunSummary) -> dict[str, object]:
    return {
        "run": run.run,
        "archive": run.archive,
        "study": row.study,
        "model": run.model,
        "model_digest": run.digest,
        "status": row.status,
        "label": row.label,
        "score": row.score,
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bonescreen.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        thousands="{:,}".format,
        score=_score,
        printable=escape_unprintable,
        counted=lambda number, thing: count(number, thing),
    )
    return environment


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _asset(name: str) -> Markup:
    """Return a style sheet or script of ours, which is no value that needs escaping."""
    return Markup(resources.files("bonescreen.report").joinpath("templates", name).read_text("utf-8"))  # noqa: S704
