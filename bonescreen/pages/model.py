"""The page of a model version: its card, as a person reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from fastapi import APIRouter, HTTPException
from starlette.requests import Request
from starlette.responses import Response

from bonescreen.pages.dependencies import Configured, Ledger
from bonescreen.pages.rendering import render
from bonescreen.pictures import package_of
from db.run_queries import list_runs
from xray.vocabulary import RESEARCH_NOTICE, UNLIKE

if TYPE_CHECKING:
    from xray.network.card import Metric

router = APIRouter(include_in_schema=False)


@router.get("/models/{digest}")
def model_page(request: Request, digest: str, settings: Configured, database: Ledger) -> Response:
    """Show a model package's card; of one that is not installed here, what the database knows."""
    runs = [run for run in list_runs(database) if run.digest == digest]
    package = package_of(settings, digest)
    if package is None and not runs:
        raise HTTPException(404, "there is no such model")
    card = package.card if package else None
    included = card is not None and any(RESEARCH_NOTICE in limit for limit in card.limits)
    return render(
        request,
        "model.html",
        name=f"{card.name} {card.version}" if card else runs[0].model,
        digest=digest,
        card=card,
        unlike=UNLIKE,
        groups=_by_population(card.metrics) if card else [],
        limits=[*(card.limits if card else ()), *(() if included else (RESEARCH_NOTICE,))],
        runs=runs,
    )


@dataclass(frozen=True)
class Population:
    """What was measured on one population, in words."""

    population: str
    metrics: list["Metric"]


def _by_population(metrics: Sequence["Metric"]) -> list[Population]:
    return [Population(name, list(group)) for name, group in groupby(metrics, lambda metric: metric.population)]
