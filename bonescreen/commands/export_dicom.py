"""Results as DICOM objects, in files and in a DICOMweb service."""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bonescreen.chosen_studies import find_named, find_studies
from bonescreen.commands.arguments import DryRun, RunOption, as_study_key
from bonescreen.commands.stopping import telling_how_far
from bonescreen.context import open_ledger, require_packages, roots_here, settings_here
from bonescreen.exports import stow
from bonescreen.exports.private_file import check_output_folder, make_private_folders, open_private
from bonescreen.pictures import find_package
from bonescreen.terminal import print_line, print_notice, print_to
from db.forget import Kind, find_targets
from db.queries import Study
from db.runs import require_run
from db.session import Database
from training.progress import Bar
from xray.dicomweb import PATIENCE_SECONDS, DicomWebService, is_service, parse_service, read_access
from xray.errors import UsageError
from xray.vocabulary import RESEARCH_NOTICE, count

if TYPE_CHECKING:
    from bonescreen.exports.dicom.study_objects import DicomObject, StudyObjects


def export_dicom(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the objects; it is made if missing.")
    ],
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY|RUN",
            callback=lambda text: None if text is None else as_study_key(text),
            help="A study's name in `bonescreen results` or an unambiguous ending of it, or a run's number for all of "
            "its studies.",
        ),
    ] = None,
    run: RunOption = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Also send the objects to this DICOMweb service (STOW-RS), such as "
            "dicomweb+https://pacs.example.org/dicom-web. Its credentials are in the file that BONESCREEN_DICOMWEB "
            "names.",
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Write results as DICOM objects, which a viewer shows beside the study.

    Each DICOM study gets a structured report with score, label, threshold and model. Each image gets its heat map as a
    colour picture, and outlines of where the map is high, to be laid over the original. They belong to the original
    study, are unverified, and say RESEARCH - NOT FOR DIAGNOSIS.

    A second export writes the same objects, with the same UIDs. Nothing is sent unless --store names a service; with
    --dry-run, nothing is written or sent, and what would be is printed. What cannot be exported is named, and the exit
    code is 1. Needs the extra dicom.

    Example: bonescreen export dicom 1.2.840.113619.2.5 -o objects
    """
    require_packages("export dicom", "highdicom", "contourpy", extra="dicom")
    # Only now, as it imports them.
    from bonescreen.exports.dicom.study_objects import NotExported, study_objects

    settings = settings_here()
    service = None if store is None else _service(store, settings.dicomweb)
    with open_ledger(settings) as database:
        total, studies = _chosen(database, what, run)
        roots = roots_here(settings, database, patience=PATIENCE_SECONDS)
        check_output_folder(output, roots, "read the objects for nothing")
        export = Export(output, service, dry_run)
        # A terminal shows everything above the bar.
        console = Console(stderr=not sys.stdout.isatty())
        if console.is_interactive:
            export.print_path = partial(print_to, console) if sys.stdout.isatty() else print_line
            export.say = partial(print_to, console) if sys.stderr.isatty() else print_notice
        told = telling_how_far(partial(export.tell_how_far, total))
        with told, Bar(console, "Exporting", total, unit="study") as bar:
            for study in studies:
                try:
                    made = study_objects(study, find_package(study, settings), roots)
                except NotExported as why:
                    export.leave_out(study.row.study, str(why))
                else:
                    export.write(made)
                bar.advance(1)
    export.summarize()
    print_notice(RESEARCH_NOTICE)
    if not export.is_whole:
        raise typer.Exit(1)


def _service(text: str, access: Path | None) -> DicomWebService:
    try:
        service = parse_service(text, access)
        read_access(service)
    except UsageError as error:
        raise UsageError(f"--store: {error}") from error
    if not is_service(text):
        raise UsageError(f"--store: {text} does not begin with dicomweb+; write {service}")
    return service


def _chosen(database: Database, what: str | None, run: int | None) -> tuple[int, Iterator[Study]]:
    """Return how many studies are wanted, and the studies."""
    if run is not None:
        require_run(database, run)
    if what is None and run is None:
        raise UsageError("STUDY|RUN is missing; name a study, or give the number of a run (bonescreen runs)")
    if what is not None and run is None and (runs := find_targets(database, what, Kind.RUN)):
        if any(target.name == what for target in find_targets(database, what, Kind.STUDY)):
            raise UsageError(
                f"{what!r} is a run and a study; for the run, leave STUDY out and give: --run {what}; for the study, "
                "give its run with --run"
            )
        what, run = None, runs[0].id
    if what is None:
        return find_studies(database, run, flagged=False)
    if run is None and what.isdecimal() and not find_targets(database, what, Kind.STUDY):
        raise UsageError(
            f"there is no run {what}, and no study whose name ends with it; see: bonescreen runs, bonescreen results"
        )
    return 1, iter(find_named(database, [what], run).values())


@dataclass
class Export:
    """Writes and sends the objects of studies, and keeps count.

    Attributes
    ----------
    output : Path
    service : DicomWebService or None
        Where they are sent.
    dry_run : bool
        Only say what would be done.
    """

    output: Path
    service: DicomWebService | None
    dry_run: bool
    print_path: Callable[[str], object] = print_line
    say: Callable[[str], object] = print_notice
    studies: int = 0
    objects: int = 0
    stored: int = 0
    not_exported: int = 0
    left_out: int = 0
    refused: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether everything that was wanted is there."""
        return not (self.not_exported or self.left_out or self.refused)

    def leave_out(self, study: str, why: str) -> None:
        """Say that nothing is written of a study."""
        self.not_exported += 1
        self.say(f"{study}: not exported: {why}")

    def write(self, made: "StudyObjects") -> None:
        """Write a study's objects, and send them if they are to be sent.

        Raises
        ------
        StorageOutage
            They cannot be written.
        ArchiveOutage
            The service takes nothing.
        """
        for line in made.left_out:
            self.say(line)
        self.left_out += len(made.left_out)
        for each in made.objects:
            self.objects += 1
            path = self.output / _folder(each.study) / f"{each.kind.replace(' ', '-')}-{each.sop_instance}.dcm"
            if self.dry_run:
                sent = f", and send it to {self.service}" if self.service else ""
                self.print_path(f"would write {path} ({len(each.data):,} bytes){sent}")
                continue
            make_private_folders(path.parent)
            with open_private(path) as file:
                file.write(each.data)
            self.print_path(str(path))
            if self.service is not None:
                self._send(each, path, self.service)
        self.studies += 1

    def _send(self, each: "DicomObject", path: Path, service: DicomWebService) -> None:
        try:
            warning = stow.store(service, each.sop_instance, each.data, self.say)
        except stow.Refused as why:
            self.refused += 1
            self.say(f"{path}: refused: {why}")
            return
        self.stored += 1
        if warning:
            self.say(f"{path}: stored, with a warning: {warning}")

    def tell_how_far(self, total: int) -> None:
        """Say how many of so many studies were done before the export was stopped, and what to do."""
        self.say(f"Stopped: {self.studies + self.not_exported:,} of {count(total, 'study')} done{self._sent()}.")
        if not self.dry_run:
            self.say(
                "Run the same command again: it makes the same objects, and those that are there stay as they are."
            )

    def summarize(self) -> None:
        """Say what was done."""
        done = "Would write" if self.dry_run else "Wrote"
        self.say(f"{done} {count(self.objects, 'object')} of {count(self.studies, 'study')}{self._sent()}.")
        for number, thing, words in (
            (self.not_exported, "study", "not exported"),
            (self.left_out, "image", "left out"),
            (self.refused, "object", "refused"),
        ):
            if number:
                self.say(f"{count(number, thing)} {words}: see above.")

    def _sent(self) -> str:
        if self.service is None:
            return ""
        if self.dry_run:
            return f"; would send them to {self.service}"
        return f"; {self.service} has {count(self.stored, 'object')}"


def _folder(study: str) -> str:
    """Return the name of a study's folder: its UID, or a digest of a text that takes the place of one."""
    return study if re.fullmatch(r"[0-9.]{1,64}", study) and study.strip(".") else sha256(study.encode()).hexdigest()
