"""The JSON API of `bonescreen serve`: what it answers, and that nothing it is asked makes it fail."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from bonescreen.pages.users import add_user
from db.migrate import upgrade
from db.session import Database
from tests.bonescreen.page_server import PASSWORD, USER, PageServer, Visitor, page_server
from tests.bonescreen.screened_archive import MARKUP, STUDIES, screen
from tests.broker import TcpBroker
from tests.ledgers import INCOMPLETE, NEGATIVE, NOT_ASSESSABLE, OUT_OF_SCOPE, POSITIVE, Unlike, fill, screened
from tests.seeding import MODEL
from xray.network.package import ModelPackage
from xray.vocabulary import RESEARCH_NOTICE

ADA = (USER, PASSWORD)
JSON = {"Content-Type": "application/json"}
SOME = settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@contextmanager
def clinic(folder: Path, package: ModelPackage) -> Iterator[PageServer]:
    """An archive with real pictures, screened in two runs, and a user."""
    screen(folder / "home", folder / "clinic", package).close()
    add_user(folder / "home", *ADA)
    with page_server(folder / "home", BONESCREEN_MODEL=str(package.path), BONESCREEN_KEEP="accession") as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_package: ModelPackage) -> Iterator[PageServer]:
    with clinic(tmp_path_factory.mktemp("api"), tiny_package) as server:
        yield server


@pytest.fixture
def script(server: PageServer) -> Visitor:
    return server.visitor(ADA)


def ask(visitor: Visitor, path: str, status: int = 200) -> Any:
    answer = visitor.get(f"/api/v1{path}")
    assert answer.status == status, answer.text
    return json.loads(answer.text)


def post(visitor: Visitor, path: str, value: object, status: int) -> Any:
    answer = visitor.ask("POST", f"/api/v1{path}", json.dumps(value).encode(), JSON)
    assert answer.status == status, answer.text
    return json.loads(answer.text)


def test_no_request_that_anybody_can_make_up_makes_the_api_fail(tmp_path: Path, tiny_package: ModelPackage) -> None:
    # Most made-up numbers name nothing.
    ids = {name: st.integers(1, most) for name, most in (("run", 3), ("other", 3), ("study_id", 7), ("image_id", 9))}
    statuses: set[int] = set()
    # One of its own, as what it asks for changes the results.
    with clinic(tmp_path, tiny_package) as server:

        def check(case: Case, numbers: dict[str, int]) -> None:
            case.path_parameters |= {name: number for name, number in numbers.items() if name in case.path_parameters}
            answer = case.call(base_url=f"http://127.0.0.1:{server.port}", auth=ADA)
            statuses.add(answer.status_code)
            # OpenAPI cannot say that a cursor is what another answer gave.
            case.validate_response(answer, excluded_checks=[positive_data_acceptance])

        text = server.visitor(ADA).get("/api/openapi.json").text
        # Else it makes up credentials, whose guesses would be slowed down; `test_access` tries every route without.
        described = schemathesis.openapi.from_dict(json.loads(text, object_hook=_without_security))
        for operation in described.get_all_operations():
            for mode, numbers in (
                (GenerationMode.POSITIVE, st.fixed_dictionaries(ids)),
                (GenerationMode.NEGATIVE, st.just({})),
            ):
                cases = operation.ok().as_strategy(generation_mode=mode)
                # Nothing can be wrong in a request without parameters.
                with suppress(Unsatisfiable):
                    SOME(given(cases, numbers)(check))()
    assert statuses >= {200, 201, 404, 422}


def _without_security(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in ("security", "securitySchemes")}


def test_a_worklist_is_paged_in_the_order_of_its_scores(script: Visitor) -> None:
    first = ask(script, "/runs/1/studies?limit=4")
    assert first["notice"] == RESEARCH_NOTICE
    rest = ask(script, f"/runs/1/studies?limit=4&cursor={first['next']}")
    found = first["studies"] + rest["studies"]
    assert [study["study"] for study in found] == list(STUDIES)
    assert [study["score"] for study in found[:2]] == [pytest.approx(0.9), pytest.approx(0.7)]
    assert [study["status"] for study in found[3:]] == ["incomplete", "scored", "not assessable"]
    assert (first["previous"], rest["next"]) == (None, None)
    assert ask(script, f"/runs/1/studies?limit=4&cursor={rest['previous']}")["studies"] == first["studies"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("flagged=true", ["HAND/ann", "HAND/dark"]),
        ("label=negative", ["WRIST/ben", MARKUP]),
        ("body_part=wrist&min_score=0.35", ["WRIST/ben"]),
        ("max_score=0.2", [MARKUP]),
        ("status=not%20assessable", ["WRIST/none"]),
        ("human_label=positive", ["HAND/ann", "HAND/dark"]),
        ("text=/ben", ["WRIST/ben"]),
        ("text=A-2", ["HAND/dark"]),
        ("since=2999-01-01", []),
        ("since=1999-01-01T00:00:00Z&flagged=true", ["HAND/ann", "HAND/dark"]),
    ],
)
def test_a_worklist_is_filtered(script: Visitor, query: str, expected: list[str]) -> None:
    assert [study["study"] for study in ask(script, f"/runs/1/studies?{query}")["studies"]] == expected


@pytest.mark.parametrize(
    "query",
    [
        "min_score=2", "max_score=-1", "label=maybe", "status=done", "limit=0", "limit=100000", "cursor=nonsense",
        "since=yesterday", "text=%00", "body_part=%00", "reviewed=perhaps", "since=0001-01-01T00:00:00",
    ],
)  # fmt: skip
def test_a_filter_that_makes_no_sense_is_refused_and_named(script: Visitor, query: str) -> None:
    problem = ask(script, f"/runs/1/studies?{query}", 422)["detail"]
    assert query.partition("=")[0] in str(problem) or "worklist" in problem


def test_a_study_has_its_images_with_the_addresses_of_their_pictures(script: Visitor) -> None:
    (study,) = ask(script, "/runs/1/studies?text=WRIST/half")["studies"]
    held = ask(script, f"/runs/1/studies/{study['study_id']}")
    assert (held["study"], held["status"], held["notice"]) == ("WRIST/half", "incomplete", RESEARCH_NOTICE)
    scored, failed = held["images_held"]
    assert "cam" not in scored
    for name in ("picture", "heat_map"):
        assert script.get(scored[name]).headers["Content-Type"] == "image/png"
        assert failed[name] is None
    assert (failed["reason"], failed["detail"]) == ("truncated", "6 bytes are missing")


def test_two_runs_are_compared_with_different_labels_first(script: Visitor) -> None:
    compared = ask(script, "/runs/1/compare/2?limit=2")
    assert (compared["only_second"], compared["both_positive"], compared["not_comparable"]) == (1, 2, 2)
    first = compared["studies"][0]
    assert (first["study"], first["first_label"], first["second_label"]) == ("WRIST/ben", "negative", "positive")
    rest = ask(script, f"/runs/1/compare/2?cursor={quote(compared['next'])}")["studies"]
    assert {each["study"] for each in compared["studies"] + rest} == {"WRIST/ben", "HAND/ann", "HAND/dark", MARKUP}
    ask(script, "/runs/1/compare/9", 409)
    ask(script, "/runs/1/compare/2?cursor=nonsense", 422)


def test_models_and_their_cards_are_described(script: Visitor, tiny_package: ModelPackage) -> None:
    (used,) = (model for model in ask(script, "/models") if model["in_use"])
    assert (used["digest"], used["problem"]) == (tiny_package.digest, None)
    card = ask(script, f"/models/{tiny_package.digest}")
    assert (card["name"], card["wording"]) == ("tiny", "positive: fracture")
    assert ask(script, f"/models/{'ab' * 32}", 404)["detail"]
    ask(script, "/models/fracture-5", 422)


@pytest.mark.parametrize("path", ["/runs/9", "/runs/9/studies", "/runs/1/studies/99", "/runs/9/failures", "/nothing"])
def test_what_is_not_there_is_not_found(script: Visitor, path: str) -> None:
    assert isinstance(ask(script, path, 404)["detail"], str)


def test_a_body_that_is_no_review_is_refused(script: Visitor) -> None:
    reviews = "/runs/1/studies/1/reviews"
    for wrong in ({}, {"decision": "maybe"}, {"decision": "agree", "note": "x" * 2_001}, {"decision": "agree", "a": 1}):
        post(script, reviews, wrong, 422)
    for text in (b"", b"\xff\xfe", b'{"decision": "agree", "note": "\\ud800"}', b'{"\\udc00": 1}', b"[" * 60_000):
        assert script.ask("POST", f"/api/v1{reviews}", text, JSON).status in (400, 422), text[:40]
    other = post(script, reviews, {"decision": "agree", "reviewer": "somebody else"}, 422)
    assert "signed in" in other["detail"]


def test_the_page_of_the_api_has_all_it_needs_here(script: Visitor) -> None:
    page = script.get("/api/docs").text
    assert "//" not in page.replace("<!doctype html>", "")
    for address in ("/static/api-docs/swagger-ui-bundle.js", "/static/api-docs/swagger-ui.css", "/static/api_docs.js"):
        assert address in page
        assert script.get(address).status == 200


def test_on_postgresql_studies_are_listed_reviewed_and_retried(
    postgres_database_url: str, tmp_path: Path, broker: TcpBroker
) -> None:
    database = Database(postgres_database_url)
    upgrade(database)
    fill(database)
    database.close()
    (tmp_path / "home").mkdir()
    add_user(tmp_path / "home", *ADA)
    environ = {"BONESCREEN_DATABASE_URL": postgres_database_url, "BONESCREEN_BROKER_URL": broker.url}
    with page_server(tmp_path / "home", **environ) as server, ThreadPoolExecutor(40) as visitors:
        script = server.visitor(ADA)
        studies = ask(script, "/runs/1/studies")["studies"]
        assert {study["study"] for study in studies} == {
            POSITIVE, NEGATIVE, INCOMPLETE, NOT_ASSESSABLE, OUT_OF_SCOPE,
        }  # fmt: skip
        assert ask(script, "/runs/1/studies?text=%27%25_%5C%22")["studies"] == []
        ask(script, "/runs/1/studies?text=%00", 422)
        reviews = f"/runs/1/studies/{studies[0]['study_id']}/reviews"
        for decision, note in (("agree", None), ("disagree", "two lines\nof a note")):
            post(script, reviews, {"decision": decision, "note": note}, 201)
        assert [each["decision"] for each in ask(script, reviews)] == ["disagree", "agree"]
        counted = ask(script, "/runs/1/agreement")
        assert (counted["reviewed"], counted["by_label"]["positive"]["disagree"]) == (1, 1)
        assert ask(script, "/runs/1/studies?reviewed=true")["studies"][0]["decision"] == "disagree"
        assert ask(script, "/runs/1/failures?reason=empty")["reasons"] == {"empty": 1, "truncated": 1}
        assert post(script, "/runs/1/retry", {}, 200) == {"retried": 2}
        assert ask(script, "/runs/1/failures")["reasons"] == {}
        pending = ask(script, "/runs/1/studies?status=pending")["studies"]
        post(script, f"/runs/1/studies/{pending[0]['study_id']}/reviews", {"decision": "agree"}, 409)
        # More at once than its pool has connections.
        asked = [visitors.submit(ask, server.visitor(ADA), "/runs/1/studies") for _ in range(120)]
        assert all(len(each.result()["studies"]) == 5 for each in asked)


def test_of_a_picture_unlike_the_training_images_page_and_api_say_so_and_draw_no_heat_map(
    tmp_path: Path, tiny_package: ModelPackage
) -> None:
    model = replace(MODEL, digest=tiny_package.digest, distance_threshold=2.0)
    screened(tmp_path / "home", {"XR_HAND/tooth": [Unlike(0.9, 7.5)]}, model=model)
    reason = "out of scope: unlike what the model has learnt from (distance 7.500, in scope up to 2.000)"
    with page_server(tmp_path / "home", BONESCREEN_MODEL=str(tiny_package.path)) as server:
        visitor = server.visitor()
        assert f"Does not count: {reason}." in visitor.get("/runs/1/studies/1").text
        (held,) = ask(visitor, "/runs/1/studies/1")["images_held"]
        assert (held["state"], held["distance"], held["distance_threshold"]) == ("out of scope", 7.5, 2.0)
        assert (held["picture"], held["heat_map"]) == ("/api/v1/images/1/1/image.png", None)
        refused = visitor.get("/api/v1/images/1/1/heatmap.png")
        assert (refused.status, reason.removeprefix("out of scope: ") in refused.text) == (404, True)
