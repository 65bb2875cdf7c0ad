"""Find the studies of a DICOMweb service by QIDO-RS, page by page; memory does not grow with their number.

Services differ: a page may be shorter than asked for, a service may ignore where a page is to begin, and none promises
an order. So each page begins within the one before, and a search ends with a page that has nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import date

from producer.selection import Selection
from xray.archives.dicomweb import Metadata, first_text
from xray.errors import ArchiveOutage

PAGE_STUDIES = 200

OVERLAP = 10
"""Studies that a page has in common with the one before: if there is none, those before have become fewer."""

MAX_STEPS_BACK = 100
"""How often a search goes back by a page before it gives up."""

STUDY_UID, STUDY_DATE = "0020000D", "00080020"
MODALITIES_IN_STUDY, INSTANCES_IN_STUDY = "00080061", "00201208"

Query = Sequence[tuple[str, str]]
"""Names and values of a search."""

Search = Callable[[Query], list[Metadata]]
"""Returns a page of studies."""


def find_studies(search: Search, selection: Selection) -> Iterator[list[Metadata]]:
    """Yield the studies of a service as it describes them, page by page; a study may come again.

    Parameters
    ----------
    search : callable
        Asks the service.
    selection : Selection
        Which studies are looked for.

    Raises
    ------
    ArchiveOutage
        The service does not answer, or not in pages: the studies yielded are not all.
    """
    since = [("StudyDate", f"{_as_dicom(selection.since)}-")] if selection.since else []
    earlier: set[str] = set()
    # One modality at a time, as the standard knows no search for one of several.
    for modality in selection.modalities or ("",):
        of_modality = [("ModalitiesInStudy", modality)] if modality else []
        for page in _pages(search, [*since, *of_modality]):
            selected = (study for study in page if _is_selected(study, selection))
            yield [study for study in selected if earlier.isdisjoint(modalities_of(study))]
        earlier.add(modality)


def _is_selected(study: Metadata, selection: Selection) -> bool:
    """Tell whether a study was looked for, as far as it is described: some services ignore what they do not know."""
    text, modalities = first_text(study, STUDY_DATE), modalities_of(study)
    is_date = len(text) == 8 and text.isdecimal()
    is_early = selection.since is not None and is_date and text < _as_dicom(selection.since)
    return not is_early and not (modalities and selection.modalities and modalities.isdisjoint(selection.modalities))


def _as_dicom(day: date) -> str:
    """Return a day as YYYYMMDD (PS3.5 6.2); `strftime` leaves out a year's zeros."""
    return day.isoformat().replace("-", "")


def modalities_of(study: Metadata) -> set[str]:
    """Return Modalities in Study (0008,0061), upper case; empty if the service does not tell."""
    element = study.get(MODALITIES_IN_STUDY)
    values = element.get("Value") if isinstance(element, dict) else None
    texts = (value for value in values if isinstance(value, str)) if isinstance(values, list) else ()
    # Some services join them, as in a DICOM file.
    return {one.strip().upper() for value in texts for one in value.split("\\")} - {""}


def _pages(search: Search, query: Query) -> Iterator[list[Metadata]]:
    asked = [*query, ("includefield", MODALITIES_IN_STUDY), ("includefield", INSTANCES_IN_STUDY)]
    offset = overlap = steps_back = 0
    last: list[str] = []

    def search_from(place: int) -> list[Metadata]:
        return search([*asked, ("limit", str(PAGE_STUDIES)), ("offset", str(place))])

    while True:
        page = search_from(offset)
        keys = [first_text(study, STUDY_UID) for study in page]
        if overlap and set(last).isdisjoint(keys):
            steps_back += 1
            if steps_back > MAX_STEPS_BACK:
                raise ArchiveOutage("the DICOMweb service lists its studies in another order each time; scan again")
            offset = max(0, offset - PAGE_STUDIES)
            overlap = overlap if offset else 0
            continue
        # Either the service ignores the offset, then another one gives this page too, or new studies are listed before.
        repeats = bool(offset and len(last) > overlap and keys[:1] == last[:1])
        if repeats and [first_text(study, STUDY_UID) for study in search_from(offset + 1)[:1]] == keys[:1]:
            _require_whole(search, query, len(keys))
            return
        new = [study for study, key in zip(page, keys, strict=True) if not overlap or key not in last]
        if not new and not repeats:
            return
        yield new
        overlap = min(OVERLAP, len(page) // 2)
        last, offset = keys, offset + len(page) - overlap


def _require_whole(search: Search, query: Query, size: int) -> None:
    """Raise an outage if a page of a service that ignores where it is to begin may not be all that there is."""
    if len(search([*query, ("limit", "1")])) < min(size, 2):
        raise ArchiveOutage(
            f"the DICOMweb service ignores the offset of a search, so that only its first {size:,} studies can be "
            "seen; have the service corrected, or look for fewer studies by --since or --modality"
        )
