"""How well a run's results agree with the archive's human labels, with 95 % intervals from whole patients."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from db.report_queries import LabelledResult, count_labelled_without_score, labelled_results
from db.run_queries import RunSummary
from db.session import Database
from xray.vocabulary import Label

if TYPE_CHECKING:
    from training.evaluate.population import Population
    from training.evaluate.predictions import Predictions

FEWER_RESAMPLES_FROM = 50_000
"""Studies; with so many, an interval is narrow, and the usual number of resamples would take minutes."""

ALL, UNKNOWN_PART = "all", "unknown body part"


@dataclass(frozen=True)
class Performance:
    """What was measured.

    Attributes
    ----------
    everyone : Population
        All studies.
    parts : list of Population
        By body part, where there are several: those with enough studies of both labels for an interval.
    few : list of str
        Body parts with too few.
    resamples : int
        Of the bootstrap.
    patients_known : int
        Studies whose patient is known; each of the others is a group of its own.
    without_score : int
        Studies with a human label that are not measured, as not all of their images were scored.
    """

    everyone: "Population"
    parts: "list[Population]"
    few: list[str]
    resamples: int
    patients_known: int
    without_score: int


def measure_performance(database: Database, run: RunSummary) -> Performance | None:
    """Measure a run against human labels; None if no scored study has one."""
    with closing(labelled_results(database, run.run)) as found:
        # The bootstrap draws the same patients each time, in whatever order the database has them.
        results = sorted(found, key=lambda result: result.study)
    if not results:
        return None
    # SciPy takes half a second to load.
    from training.evaluate.bootstrap import REPEATS
    from training.evaluate.population import measure_population
    from xray.network.card import Threshold

    resamples = REPEATS if len(results) < FEWER_RESAMPLES_FROM else REPEATS // 10
    threshold = Threshold(run.study_threshold, "the run's own")
    by_part: dict[str, list[LabelledResult]] = {}
    for result in results:
        by_part.setdefault(result.body_parts or UNKNOWN_PART, []).append(result)
    everyone, *parts = (
        measure_population(name, _predictions(some), [threshold], repeats=resamples)
        for name, some in [(ALL, results), *(sorted(by_part.items()) if len(by_part) > 1 else [])]
    )
    return Performance(
        everyone=everyone,
        parts=[part for part in parts if part.missing is None],
        few=[part.name for part in parts if part.missing is not None],
        resamples=resamples,
        patients_known=sum(result.patient is not None for result in results),
        without_score=count_labelled_without_score(database, run.run),
    )


def _predictions(results: Sequence[LabelledResult]) -> "Predictions":
    import numpy as np

    from training.evaluate.predictions import Predictions

    # Numbers, not names: in an array, each name would take as much memory as the longest.
    numbers = np.arange(len(results)).astype(np.str_)
    patients: dict[str, int] = {}
    groups = [
        number if result.patient is None else patients.setdefault(result.patient, number)
        for number, result in enumerate(results)
    ]
    scores = np.array([result.score for result in results], np.float64)
    return Predictions(
        images=numbers,
        studies=numbers,
        groups=np.array(groups).astype(np.str_),
        body_parts=np.array([result.body_parts or "" for result in results], np.str_),
        labels=np.array([result.human_label is Label.POSITIVE for result in results], np.bool_),
        logits=scores,
        probabilities=scores,
    )
