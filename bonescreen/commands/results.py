"""Results: studies with their scores, as a table or for other programs."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from bonescreen.commands.arguments import RunOption, as_count, as_score, as_time, as_utf8
from bonescreen.context import open_ledger, settings_here
from bonescreen.exports import formats
from bonescreen.exports.about import About
from bonescreen.exports.formats import Format
from bonescreen.results_table import TABLE_ROWS, print_images, print_results, run_heading
from bonescreen.terminal import print_notice
from db import queries
from db.queries import ImageResult, ResultFilter, StudyRow
from xray.vocabulary import RESEARCH_NOTICE, Label


def results(
    run: RunOption = None,
    flagged: Annotated[bool, typer.Option("--flagged", help="Only studies at or above the study threshold.")] = False,
    min_score: Annotated[
        float | None,
        typer.Option(metavar="SCORE", callback=as_score, help="Only studies with at least this score, from 0 to 1."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE",
            callback=as_score,
            help="Use this study threshold, from 0 to 1, instead of the model's. Nothing stored changes.",
        ),
    ] = None,
    body_part: Annotated[
        str | None,
        typer.Option(metavar="PART", callback=as_utf8, help="Only studies that show this body part, such as WRIST."),
    ] = None,
    label: Annotated[Label | None, typer.Option(help="Only studies with this predicted label.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            callback=as_count,
            help=f"Show at most N studies or images (default: {TABLE_ROWS} in a table, all in the other formats).",
        ),
    ] = None,
    since: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=as_time,
            help="Only studies whose result is new or changed since then: 2026-11-30, or 2026-11-30T07:00.",
        ),
    ] = None,
    images: Annotated[
        bool, typer.Option("--images", help="List the images of these studies: file, probability, reason.")
    ] = False,
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="Of these, csv, json and jsonl (an object a line) can be written to standard output, parquet and xlsx "
            "only to a file. Parquet needs the extra parquet.",
        ),
    ] = Format.TABLE,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to this file, whole or not at all; only you may read it.",
        ),
    ] = None,
) -> None:
    """List studies with their scores, the highest first.

    A study's score is the mean of its images' probabilities, beside which the highest of them is shown; copies of an
    image count once. A study with an image that could not be read is never called negative. Without --run, the newest
    run of each archive is listed. See one study: bonescreen study STUDY

    Example: bonescreen results --flagged --format csv > flagged.csv
    """
    formats.check(form, output)
    settings = settings_here()
    wanted = ResultFilter(run, flagged, min_score, threshold, body_part, label, limit, since, settings.keep)
    with open_ledger(settings) as database:
        runs = queries.find_runs(database, run)
        if body_part is not None and (note := queries.check_body_part(database, body_part, runs, "--body-part")):
            print_notice(note)
        if form is Format.TABLE:
            (print_images if images else print_results)(database, wanted, runs)
            return
        stream, kind = (queries.image_results, ImageResult) if images else (queries.results, StudyRow)
        with closing(stream(database, wanted)) as rows:
            formats.write(rows, kind, form, About.now(runs, threshold), output)
        for text in (*(run_heading(summary, threshold) for summary in runs), RESEARCH_NOTICE):
            print_notice(text)
