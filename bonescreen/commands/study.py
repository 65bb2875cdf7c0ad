"""One study and its images."""

from dataclasses import asdict

from rich.text import Text

from bonescreen.commands.arguments import Json, RunOption, StudyKey
from bonescreen.context import open_ledger, settings_here
from bonescreen.exports.columns import columns_of, record
from bonescreen.results_table import outcome_text, run_heading, score_text, why_out_of_scope
from bonescreen.terminal import print_line, print_notice, print_table, print_wrapped, write_json
from db.queries import ImageRow, Study, StudyRow, find_study
from db.run_queries import RunSummary, run_summary
from db.runs import require_run
from xray.vocabulary import FOR_PROCESSING, RESEARCH_NOTICE, ImageState, count, reason_text


def study(study: StudyKey, run: RunOption = None, as_json: Json = False) -> None:
    """Show one study: its score and each of its images.

    It is shown for every run that screened it, the newest first. See which areas raised the score with: bonescreen
    heatmap STUDY -o DIR

    Example: bonescreen study patient00001/study1_positive
    """
    with open_ledger(settings_here()) as database:
        if run is not None:
            require_run(database, run)
        found = find_study(database, study, run)
        if as_json:
            write_json([_as_json(one) for one in found])
            print_notice(RESEARCH_NOTICE)
            return
        for one in found:
            _print(one, run_summary(database, one.row.run))
    print_line(RESEARCH_NOTICE)


def _as_json(study: Study) -> dict[str, object]:
    # The map itself is bytes: `bonescreen heatmap` draws it.
    hidden = ("cam", "cam_shape", "image_id")
    images = [{name: value for name, value in asdict(image).items() if name not in hidden} for image in study.images]
    return {
        **record(study.row, columns_of(StudyRow)),
        "patient": study.patient,
        "digest": study.digest,
        "images_held": images,
    }


def _print(study: Study, run: RunSummary) -> None:
    row = study.row
    print_line(run_heading(run), "dim")
    print_line(f"{row.study}", "bold")
    print_line(f"  body part    {row.body_part or 'unknown'}")
    if row.human_label:
        print_line(f"  human label  {row.human_label}")
    print_line(Text("  result       ") + outcome_text(row, run.finding))
    used = sum(image.state is ImageState.SCORED for image in study.images)
    mean = f" (mean probability of {count(used, 'image')}; positive at {run.study_threshold:.3f} or above)"
    print_line(f"  score        {score_text(row.score)}{mean if row.score is not None else ''}")
    print_line(f"  highest      {score_text(row.highest)}")
    for name, value in (("accession", row.accession), ("study date", row.study_date)):
        if value is not None:
            print_line(f"  {name:<12} {value}")
    if row.patients is not None and row.patients > 1:
        warning = f"images of {count(row.patients, 'patient')}, so it has no score: a study has one patient"
        print_wrapped("  warning      ", warning, "yellow")
    print_table((" probability", "label", "state", "shows", "image"), [_row(image, study) for image in study.images])
    for image in study.images:
        if image.intent == FOR_PROCESSING and image.state is ImageState.SCORED:
            raw = "a raw image (FOR PROCESSING), scored as there is no finished one of its view"
            print_wrapped(f"{_name(image, study)}: ", raw)
        if image.state is ImageState.OUT_OF_SCOPE:
            print_wrapped(f"{_name(image, study)}: ", f"out of scope: {why_out_of_scope(image)}")
        if image.reason is None and image.detail is not None:
            print_wrapped(f"{_name(image, study)}: ", f"read all the same: {image.detail}")
        if image.reason is not None:
            detail = f" ({image.detail})" if image.detail else ""
            print_wrapped(f"{_name(image, study)}: ", f"no prediction: {reason_text(image.reason)}{detail}")
    print_line("")


def _name(image: ImageRow, study: Study) -> str:
    """Return an image's path below its study's folder, or in the archive where the study is not a folder."""
    return image.image.removeprefix(f"{study.row.study}/")


def _row(image: ImageRow, study: Study) -> list[str]:
    name = _name(image, study)
    shows = " ".join(filter(None, (image.modality, image.body_part, image.view, image.laterality))) or "-"
    state = image.reason or image.state
    return [score_text(image.probability), image.label or "-", state, shows, name]
