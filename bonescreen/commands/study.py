"""One study and its images."""

from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Annotated

import typer
from rich.text import Text

from bonescreen.commands.arguments import LARGEST_NUMBER, as_utf8
from bonescreen.commands.failures import reason_text
from bonescreen.commands.results import heading, outcome, score
from bonescreen.commands.runs import Json
from bonescreen.context import open_ledger, settings_here
from bonescreen.terminal import count, print_line, print_notice, print_table, write_json
from db.queries import ImageRow, Study, find_study
from db.run_queries import RunSummary, run_summary
from db.runs import require_run
from xray.vocabulary import RESEARCH_NOTICE, StudyStatus


def _as_key(text: str) -> str | None:
    # A shell completes the path of a study's folder with a slash at its end.
    return as_utf8(text.rstrip("/"))


StudyKey = Annotated[
    str,
    typer.Argument(metavar="STUDY", callback=_as_key, help="The study's key in its archive, or the end of its path."),
]
RunOption = Annotated[int | None, typer.Option("--run", min=1, max=LARGEST_NUMBER, help="One run only.")]


def study(study: StudyKey, run: RunOption = None, as_json: Json = False) -> None:
    """Show one study: its score and each of its images.

    In every run that holds it, the newest first.

    Example: bonescreen study patient00001/study1_positive
    """
    with open_ledger(settings_here()) as database:
        if run is not None:
            require_run(database, run)
        found = find_study(database, study, run)
        if as_json:
            write_json([_as_json(held) for held in found])
            print_notice(RESEARCH_NOTICE)
            return
        for held in found:
            _print(held, run_summary(database, held.row.run))
    print_line(RESEARCH_NOTICE)


def _as_json(held: Study) -> dict[str, object]:
    # The map itself is no reading matter: `bonescreen heatmap` draws it.
    hidden = ("cam", "cam_shape")
    images = [{name: value for name, value in asdict(image).items() if name not in hidden} for image in held.images]
    return {**asdict(held.row), "patient": held.patient, "digest": held.digest, "images_held": images}


def _print(held: Study, run: RunSummary) -> None:
    row = held.row
    print_line(heading(run), "dim")
    print_line(f"{row.study}", "bold")
    print_line(f"  body part    {row.body_part or 'unknown'}")
    if row.human_label:
        print_line(f"  human label  {row.human_label}")
    print_line(Text("  result       ") + outcome(row, run.finding))
    read = sum(image.probability is not None and image.in_scope for image in held.images)
    mean = f"mean probability of {count(read, 'image')}"
    print_line(f"  score        {score(row)} ({mean}; positive from {run.study_threshold:.3f})")
    print_table((" probability", "label", "state", "shows", "image"), [_row(image) for image in held.images])
    for image in held.images:
        if image.reason is not None:
            detail = f" ({image.detail})" if image.detail else ""
            print_line(f"{PurePosixPath(image.image).name}: no prediction, as {reason_text(image.reason)}{detail}")
    print_line("")


def _row(image: ImageRow) -> list[str]:
    shows = " ".join(filter(None, (image.body_part, image.view, image.laterality))) or "-"
    if image.probability is None:
        return ["-", "-", image.reason or "pending", shows, image.image]
    state = "scored" if image.in_scope else StudyStatus.OUT_OF_SCOPE
    return [f"{image.probability:.3f}", image.label or "-", state, shows, image.image]
