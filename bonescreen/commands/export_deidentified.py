"""De-identified studies, for a colleague or a data set."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bonescreen.chosen_studies import find_named, find_studies
from bonescreen.commands.arguments import RunOption, as_study_keys
from bonescreen.commands.stopping import telling_how_far
from bonescreen.context import open_ledger, require_packages, roots_here, settings_here
from bonescreen.exports.private_file import check_output_folder
from bonescreen.terminal import print_line, print_notice, print_to
from db.runs import require_run
from training.progress import Bar
from xray.dicomweb import PATIENCE_SECONDS
from xray.errors import UsageError
from xray.vocabulary import RESEARCH_NOTICE, count


def deidentified(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="DIR", help="Folder to write to; it is made if missing, else empty."),
    ],
    studies: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="STUDY",
            callback=as_study_keys,
            help="Studies: their names in `bonescreen results`, or unambiguous endings of them.",
        ),
    ] = None,
    run: RunOption = None,
    flagged: Annotated[bool, typer.Option("--flagged", help="Export the run's flagged studies.")] = False,
    pictures_checked: Annotated[
        bool,
        typer.Option(
            "--pictures-checked",
            help="You have looked at the pictures, and none names its patient: export those too that may (see above).",
        ),
    ] = False,
) -> None:
    """Export studies' images de-identified, with their results, for a colleague or a data set.

    DICOM headers are de-identified after PS3.15's basic profile; PNG, JPEG and TIFF files become a PNG without
    metadata. Pictures stay as they are: a name that is burned into one is not removed. So an image is not exported if
    its file says that text is burned in, or is of a kind that often has some and does not say otherwise (Secondary
    Capture, PNG, JPEG, TIFF), unless you say that you looked, with --pictures-checked.

    The same patient gets the same pseudonym, and the same study the same new UID, in every export with the same
    BONESCREEN_PSEUDONYM_KEY. DIR gets a README.txt that says what was done and what not. What is not exported is named,
    and the exit code is 1.

    With --run and neither STUDY nor --flagged, all studies of the run are exported.

    Example: bonescreen export deidentified --flagged -o for-a-colleague
    """
    if flagged and studies:
        raise UsageError("--flagged exports all flagged studies; leave it out to export the studies that you name")
    if not flagged and not studies and run is None:
        raise UsageError("STUDY is missing; name studies, or export a run with --run, or flagged ones with --flagged")
    require_packages("export deidentified", "dicomanonymizer", extra="dicom")
    settings = settings_here()
    if settings.pseudonym_key is None:
        raise UsageError(
            "export deidentified needs BONESCREEN_PSEUDONYM_KEY, with which pseudonyms and UIDs are made; make one "
            "with: openssl rand -hex 32, keep it secret, and use the same one for every export"
        )
    from bonescreen.deidentification.export import Export

    with open_ledger(settings) as database:
        if run is not None:
            require_run(database, run)
        if studies:
            named = find_named(database, studies, run)
            total, chosen = len(named), iter(named.values())
        else:
            total, chosen = find_studies(database, run, flagged=flagged)
        roots = roots_here(settings, database, patience=PATIENCE_SECONDS)
        if not total:
            print_notice("No study is flagged." if flagged else f"Run {run} has no study.")
            return
        check_output_folder(output, roots, "take the copies for new studies")
        _refuse_full(output)
        # A terminal shows the images that are refused above the bar.
        console = Console(stderr=True)
        say = partial(print_to, console) if console.is_interactive and sys.stderr.isatty() else print_notice
        export = Export(database, roots, settings.pseudonym_key, output, pictures_checked, say)

        def tell() -> None:
            print_notice(f"Stopped: {export.studies:,} of {count(total, 'study')} done.")
            if output.is_dir() and any(output.iterdir()):
                print_notice(f"{output} is not complete: delete it, and start again.")

        with telling_how_far(tell), Bar(console, "Exporting", total, unit="study") as bar:
            export.write(chosen, bar.advance)
    print_line(f"{output}: {count(export.studies, 'study')}, {count(export.exported, 'image')}")
    if export.exported:
        print_notice(
            "Headers are de-identified; pictures are as they were, and may show names that are burned into them. "
            "README.txt says what was done."
        )
    if export.refused:
        print_notice(f"{count(export.refused, 'image')} not exported: see above")
    print_notice(RESEARCH_NOTICE)
    if export.refused:
        raise typer.Exit(1)


def _refuse_full(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; choose a new folder, so that nothing in it is replaced or mixed up")
