"""All studies are found, however a service cuts its pages, and whatever happens between two of them."""

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from producer.find_studies import PAGE_STUDIES, Query, find_studies
from producer.selection import ALL, Selection
from xray.archives.dicomweb import Metadata
from xray.errors import ArchiveOutage


def study(number: int, modality: str = "DX") -> Metadata:
    return {"0020000D": {"Value": [f"1.{number}"]}, "00080061": {"Value": [modality]}}


class Service:
    """A service's search for studies.

    Parameters
    ----------
    studies : list of Metadata
    cap : int
        The most studies of a page.
    obeys : tuple of str
        What of a query it follows.
    meanwhile : callable
        Called with the service before each page.
    """

    def __init__(
        self,
        studies: list[Metadata],
        cap: int = 1000,
        obeys: tuple[str, ...] = ("limit", "offset"),
        meanwhile: Callable[["Service"], object] = lambda service: None,
    ) -> None:
        self.studies, self._cap, self._obeys, self._meanwhile = studies, cap, obeys, meanwhile
        self.queries: list[dict[str, str]] = []

    def __call__(self, query: Query) -> list[Metadata]:
        self._meanwhile(self)
        self.queries.append(dict(query))
        assert len(self.queries) < 2000, "the search does not end"
        asked = {name: int(value) for name, value in query if name in self._obeys}
        wanted = dict(query).get("ModalitiesInStudy")
        found = [one for one in self.studies if wanted in (None, *one["00080061"]["Value"])]
        start = asked.get("offset", 0)
        return found[start : start + min(self._cap, asked.get("limit", self._cap))]


def keys(service: Service, selection: Selection = ALL) -> list[str]:
    return [one["0020000D"]["Value"][0] for page in find_studies(service, selection) for one in page]


@pytest.mark.parametrize("number", [0, 1, 2, 9, 199, 200, 201, 400, 1001])
@pytest.mark.parametrize("cap", [1000, 100, 7, 1])
def test_each_study_is_found_once_with_pages_of_any_length(number: int, cap: int) -> None:
    assert keys(Service([study(n) for n in range(number)], cap)) == [f"1.{n}" for n in range(number)]


@pytest.mark.parametrize("deleted", [1, 9, 50, 350])
def test_no_study_is_missed_though_earlier_ones_are_deleted_meanwhile(deleted: int) -> None:
    def delete(service: Service) -> None:
        if len(service.queries) == 2:
            del service.studies[:deleted]

    service = Service([study(n) for n in range(900)], meanwhile=delete)
    assert {f"1.{n}" for n in range(deleted, 900)} <= set(keys(service))


def test_no_study_is_missed_though_new_ones_are_listed_first() -> None:
    def add(service: Service) -> None:
        service.studies.insert(0, study(1000 + len(service.queries)))

    assert {f"1.{n}" for n in range(700)} <= set(keys(Service([study(n) for n in range(700)], meanwhile=add)))


@pytest.mark.parametrize(("number", "added"), [(2, 1), (3, 2), (12, 6), (200, 190), (700, 190)])
def test_a_page_that_comes_again_as_new_studies_are_listed_first_does_not_end_the_search(
    number: int, added: int
) -> None:
    def add(service: Service) -> None:
        if len(service.queries) == 1:
            service.studies[:0] = [study(1000 + n) for n in range(added)]

    assert {f"1.{n}" for n in range(number)} <= set(keys(Service([study(n) for n in range(number)], meanwhile=add)))


def test_a_service_that_empties_meanwhile_ends_the_search() -> None:
    def empty(service: Service) -> None:
        if len(service.queries) == 2:
            service.studies.clear()

    assert len(set(keys(Service([study(n) for n in range(900)], meanwhile=empty)))) == 2 * PAGE_STUDIES - 10


def test_a_service_that_ignores_offset_is_refused_unless_it_lists_everything_at_once() -> None:
    every = [study(n) for n in range(900)]
    with pytest.raises(ArchiveOutage, match="ignores the offset"):
        keys(Service(every, obeys=("limit",)))
    assert keys(Service(every, obeys=())) == [f"1.{n}" for n in range(900)]


def test_a_service_whose_order_is_always_another_is_not_asked_for_ever() -> None:
    def turn(service: Service) -> None:
        service.studies[:] = service.studies[300:] + service.studies[:300]

    with pytest.raises(ArchiveOutage, match="another order"):
        keys(Service([study(n) for n in range(900)], meanwhile=turn))


def test_a_study_of_two_modalities_that_are_looked_for_comes_once() -> None:
    both: Any = {**study(1), "00080061": {"Value": ["CR", "DX"]}}
    service = Service([both, study(2, "DX"), study(3, "CR"), study(4, "MG")])
    assert sorted(keys(service, Selection(date(2026, 1, 15), ("CR", "DX")))) == ["1.1", "1.2", "1.3"]
    assert {query.get("StudyDate") for query in service.queries} == {"20260115-"}


def test_a_service_that_ignores_what_is_looked_for_gives_no_other_studies() -> None:
    class Ignores(Service):
        def __call__(self, query: Query) -> list[Metadata]:
            return super().__call__([item for item in query if item[0] in ("limit", "offset")])

    early: Any = {**study(1), "00080020": {"Value": ["20251231"]}}
    late: Any = {**study(2), "00080020": {"Value": ["20260115"]}}
    service = Ignores([early, late, study(3, "CT"), study(4)])
    assert keys(service, Selection(date(2026, 1, 15), ("DX",))) == ["1.2", "1.4"]


def test_a_day_of_long_ago_leaves_out_nothing_and_only_a_whole_date_is_early() -> None:
    partial: Any = {**study(1), "00080020": {"Value": ["2025"]}}
    late: Any = {**study(2), "00080020": {"Value": ["20260115"]}}
    service = Service([partial, late])
    assert keys(service, Selection(date(999, 1, 1))) == ["1.1", "1.2"]
    assert {query["StudyDate"] for query in service.queries} == {"09990101-"}
    assert keys(service, Selection(date(2026, 1, 15))) == ["1.1", "1.2"]
