"""How pages write results, numbers and times: the filters of their templates."""

from collections.abc import Callable, Mapping

from markupsafe import Markup

from bonescreen.results_table import outcome_text, score_text
from bonescreen.terminal import local_time
from db.queries import KEPT_COLUMN, StudyRow
from xray.printable import escape_unprintable
from xray.vocabulary import Label, StudyStatus, count


def result_text(row: StudyRow, finding: str) -> str:
    """Write a study's result: only one all of whose images were read is called negative."""
    return outcome_text(row, finding).plain


def result_class(row: StudyRow) -> str:
    """Return the class of a result in ``style.css``."""
    if row.label == Label.POSITIVE:
        return "flagged"
    if row.label == Label.NEGATIVE:
        return "negative"
    return "pending" if row.status == StudyStatus.PENDING else "unread"


def kept(row: StudyRow, name: str) -> str:
    """Return what is shown of a study only as ``BONESCREEN_KEEP`` names it."""
    value = getattr(row, KEPT_COLUMN.get(name, name))
    return "-" if value is None else str(value)


def _printable(text: object) -> str:
    # Lines and paragraphs are a note's own.
    return "\n".join(map(escape_unprintable, str(text).split("\n")))


def _path(text: object) -> Markup:
    # A long path breaks at its folders.
    return Markup("/<wbr>").join(_printable(text).split("/"))


def _sentence(text: object) -> str:
    # Errors are written as they follow "error: ".
    written = _printable(text).strip().rstrip(".")
    return f"{written[:1].upper()}{written[1:]}."


FILTERS: Mapping[str, Callable[..., object]] = {
    "result_text": result_text,
    "result_class": result_class,
    "kept": kept,
    "printable": _printable,
    "path": _path,
    "sentence": _sentence,
    "score": score_text,
    "when": local_time,
    "counted": count,
    "whole": lambda number: f"{number:,}",
}
