"""The worklist of a run: its studies by score, with filters, search and pages."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from bonescreen.pages.dependencies import Configured, Ledger, Run
from bonescreen.pages.rendering import render
from bonescreen.pages.worklist_filter import NO, YES, Asked
from bonescreen.problems import is_open
from bonescreen.results_table import count_studies
from db.queries import ResultFilter, list_body_parts
from db.reviews import agreement
from db.worklist import WorklistPage, count_worklist, worklist
from xray.vocabulary import KEEP, Label, StudyStatus, count

PAGE_ROWS = 50
MOST_COUNTED = 10_000

router = APIRouter(include_in_schema=False)


@router.get("/runs/{run}")
def worklist_page(
    request: Request, run: Run, listed: Asked, settings: Configured, database: Ledger, last: bool = False
) -> Response:
    """Show a page of a run's studies; to htmx the table alone."""
    page, number = WorklistPage([], None, None), 0
    if listed.problem is None:
        page = worklist(database, listed.wanted, listed.cursor, PAGE_ROWS, settings.keep)
        number = count_worklist(database, listed.wanted, MOST_COUNTED) if listed.given else run.studies
    here = f"/runs/{run.run}"
    table: dict[str, Any] = {
        "run": run,
        "rows": page.rows,
        "next": page.next and here + listed.query(cursor=page.next),
        "previous": page.previous and here + listed.query(cursor=page.previous),
        "query": listed.here,
        "has_filter": bool(listed.given),
        "problem": listed.problem,
        "counted": count(number, "study") + (" or more" if listed.given and number == MOST_COUNTED else ""),
        "labelled": any(each.row.human_label for each in page.rows),
        "kept": [name for name in KEEP if name in settings.keep],
    }
    if request.headers.get("hx-request") and not request.headers.get("hx-history-restore-request"):
        return render(request, "worklist_table.html", **table)
    counts = count_studies(database, ResultFilter(run.run))
    return render(
        request,
        "worklist.html",
        **table,
        wanted=listed.wanted,
        given=listed.given,
        last=last,
        is_open_run=is_open(run),
        counts=counts,
        without_result=sum(counts.without_result.values()),
        agreement=agreement(database, run.run),
        statuses=[(status, status) for status in StudyStatus],
        labels=[(label, label) for label in Label],
        body_parts=[(part, part.lower()) for part in list_body_parts(database, [run.run])],
        reviewed_choices=[(YES, "by somebody"), (NO, "by nobody yet")],
    )
