"""Who gets in: credentials, sessions, CSRF, names of this host and other sites, on a running `bonescreen serve`."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest
from fastapi.routing import iter_route_contexts

from bonescreen.pages.app import make_app
from bonescreen.pages.users import FREE_GUESSES, add_user, remove_user
from db.session import Database
from tests.awaiting import PATIENCE
from tests.bonescreen.conftest import Bonescreen
from tests.bonescreen.page_server import FORM, PASSWORD, USER, PageServer, Visitor, page_server
from tests.bonescreen.processes import run
from tests.ledgers import NEGATIVE, POSITIVE, embedded, screened
from xray.settings import read_settings

OPEN_TO_ALL = {"/healthz", "/sign-in"}
JSON = {"Content-Type": "application/json"}
REVIEWS = "/api/v1/runs/1/studies/1/reviews"


@dataclass(frozen=True)
class Route:
    path: str
    method: str


def every_route(home: Path) -> list[Route]:
    """List every path and method that the app answers, with numbers in the place of parameters."""
    settings = read_settings({"BONESCREEN_HOME": str(home)})
    database = Database(settings.effective_database_url)
    app = make_app(settings, database, loopback=True)
    database.close()
    found = []
    for route in iter_route_contexts(app.routes):
        path = re.sub(r"\{\w+\}", "1", str(route.path))
        found += [Route(path, method) for method in route.methods or {"GET"}]
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with screened studies and a user."""
    home = tmp_path_factory.mktemp("access") / "home"
    screened(home)
    add_user(home, USER, PASSWORD)
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[PageServer]:
    with page_server(home) as server:
        yield server


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """A server on loopback without users."""
    home = tmp_path_factory.mktemp("open") / "home"
    screened(home)
    with page_server(home) as server:
        yield server


@pytest.fixture
def signed_in(server: PageServer) -> Visitor:
    visitor = server.visitor()
    assert visitor.sign_in().status == 303
    return visitor


# -- credentials --------------------------------------------------------------------------------------------------


def test_no_route_answers_without_credentials_but_health_sign_in_and_static_files(
    server: PageServer, home: Path
) -> None:
    routes = every_route(home)
    assert {route.path for route in routes} > OPEN_TO_ALL | {"/", "/runs/1", "/api/v1/runs", "/metrics", "/api/docs"}
    for route in routes:
        if route.path in OPEN_TO_ALL or route.path.startswith("/static"):
            continue
        answer = server.visitor().ask(route.method, route.path)
        assert answer.status in (303, 401), route
        assert answer.status == 401 or answer.headers["Location"].startswith("/sign-in?next="), route
        assert POSITIVE not in answer.text, route
        wrong = server.visitor((USER, "wrong password"))
        if route.path == "/api/v1/runs":
            assert wrong.ask(route.method, route.path).status == 401
    assert server.visitor().get("/healthz").text == "ok\n"
    assert server.visitor().get("/static/api-docs/swagger-ui.css").status == 200


def test_a_route_that_does_not_exist_asks_for_credentials_too(server: PageServer) -> None:
    for path in ("/nothing", "/api/v1/nothing", "//api/v1/runs", "/healthz/", "/static", "/sign-in/"):
        assert server.visitor().get(path).status in (303, 401, 404), path
        assert server.visitor().get(path).text.find("not found") < 0
    assert server.visitor().get("/static/../api/v1/runs").status in (303, 401, 404)


def test_scripts_give_name_and_password_with_each_request(server: PageServer) -> None:
    script = server.visitor((USER, PASSWORD))
    assert POSITIVE in script.get("/api/v1/runs/1/studies").text
    assert "bonescreen_database_up 1.0" in script.get("/metrics").text
    reviewed = script.ask("POST", REVIEWS, b'{"decision": "agree"}', JSON)
    assert (reviewed.status, script.cookies) == (201, {})
    assert f'"reviewer":"{USER}"' in reviewed.text
    person = server.visitor().get("/api/docs", Accept="text/html,application/xhtml+xml")
    assert (person.status, person.headers["Location"]) == (303, "/sign-in?next=/api/docs")
    refused = server.visitor().get("/api/v1/runs", Accept="*/*")
    assert refused.headers["WWW-Authenticate"] == 'Basic realm="bonescreen"'
    assert refused.headers["Content-Type"] == "application/json"


def test_a_browser_is_not_asked_for_a_password_that_it_would_then_send_by_itself(server: PageServer) -> None:
    answer = server.visitor().get("/api/v1/runs", Sec_Fetch_Site="same-origin")
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, None)


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!!", "Basic YWRh", "Basic gICAgA==", "Bearer abc", "Basic OmFkYQ=="]
)
def test_credentials_that_make_no_sense_are_refused(server: PageServer, header: str) -> None:
    assert server.visitor().get("/api/v1/runs", Authorization=header).status == 401


def test_a_page_that_wants_a_session_comes_after_signing_in(server: PageServer) -> None:
    visitor = server.visitor()
    asked = visitor.get("/runs/1?flagged=true&text=a%26b")
    assert asked.headers["Location"] == "/sign-in?next=/runs/1%3Fflagged%3Dtrue%26text%3Da%2526b"
    assert 'name="next" value="/runs/1?flagged=true&amp;text=a%26b"' in visitor.get(asked.headers["Location"]).text
    answer = visitor.send_form("/sign-in", name=USER, password=PASSWORD, next="/runs/1?flagged=true")
    assert (answer.status, answer.headers["Location"]) == (303, "/runs/1?flagged=true")
    assert "study1_positive" in visitor.get("/runs/1").text


@pytest.mark.parametrize(
    "next_page", ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "", "/a\nb"]
)
def test_signing_in_leads_to_no_other_site(server: PageServer, next_page: str) -> None:
    answer = server.visitor().send_form("/sign-in", name=USER, password=PASSWORD, next=next_page)
    assert (answer.status, answer.headers["Location"]) == (303, "/")


def test_a_wrong_name_and_a_wrong_password_get_the_same_answer(server: PageServer) -> None:
    pages = []
    for user, password in ((USER, "wrong password"), ("nobody", PASSWORD)):
        visitor = server.visitor()
        answer = visitor.sign_in(user, password)
        assert answer.status == 403
        pages.append(re.sub(r'value="[^"]*"|X-CSRF-Token[^}]*', "", answer.text))
        assert visitor.get("/runs/1").status == 303
    assert pages[0] == pages[1]


def test_guesses_of_a_password_are_slowed_down_and_sessions_go_on(home: Path, server: PageServer) -> None:
    add_user(home, "target", PASSWORD)
    session = server.visitor()
    assert session.sign_in("target").status == 303
    guesser = server.visitor()
    statuses = [guesser.sign_in("target", f"wrong password {number}").status for number in range(FREE_GUESSES + 1)]
    assert statuses == [403] * FREE_GUESSES + [429]
    refused = guesser.sign_in("target")
    assert refused.status == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert server.visitor(("target", PASSWORD)).get("/api/v1/runs").status == 429
    assert session.get("/runs/1").status == 200
    assert server.visitor((USER, PASSWORD)).get("/api/v1/runs").status == 200


def test_many_guesses_at_a_time_by_invented_names_take_no_more_memory_than_two(tmp_path: Path) -> None:
    home = tmp_path / "home"
    screened(home)
    add_user(home, USER, PASSWORD)
    with page_server(home) as server:

        def guess(number: int) -> int:
            return server.visitor().sign_in(f"invented {number}", PASSWORD).status

        assert guess(0) == 403
        before = peak_megabytes(server.process.pid)
        with ThreadPoolExecutor(24) as guessers:
            assert set(guessers.map(guess, range(1, 49))) == {403}
        # Each takes 32 MB; in every thread of the pages it would be 400.
        assert peak_megabytes(server.process.pid) - before < 150


def peak_megabytes(process: int) -> float:
    """The most resident memory that a process had."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1000


# -- sessions -----------------------------------------------------------------------------------------------------


def test_a_session_ends_with_sign_out_and_its_cookie_is_out_of_scripts_reach(server: PageServer) -> None:
    visitor = server.visitor()
    visitor.get("/sign-in")
    before = dict(visitor.cookies)
    cookie = visitor.sign_in().headers["Set-Cookie"]
    assert {"httponly", "samesite=strict", "path=/"} <= set(cookie.lower().split("; "))
    assert visitor.cookies != before
    assert visitor.get("/runs/1").status == 200
    assert visitor.send_form("/sign-out").headers["Location"] == "/sign-in"
    assert visitor.get("/runs/1").status == 303


def test_a_session_that_came_by_https_is_sent_by_https_only(server: PageServer) -> None:
    by_https = server.visitor().get("/sign-in", X_Forwarded_Proto="https").headers["Set-Cookie"]
    assert "secure" in by_https
    assert "secure" not in server.visitor().get("/sign-in").headers["Set-Cookie"]


def test_a_forged_or_damaged_session_is_none(server: PageServer, signed_in: Visitor) -> None:
    ((name, value),) = signed_in.cookies.items()
    for forged in (value[:-2] + "xx", "e30=.abc.def", "", "\x7f", value.partition(".")[0]):
        assert Visitor(server.port, cookies={name: forged}).get("/runs/1").status == 303, forged


def test_a_removed_users_session_and_password_end_at_once(home: Path, server: PageServer) -> None:
    add_user(home, "eve", PASSWORD)
    visitor, script = server.visitor(), server.visitor(("eve", PASSWORD))
    assert visitor.sign_in("eve").status == 303
    assert (visitor.get("/runs/1").status, script.get("/api/v1/runs").status) == (200, 200)
    remove_user(home, "eve")
    assert (visitor.get("/runs/1").status, script.get("/api/v1/runs").status) == (303, 401)
    add_user(home, "eve", f"{PASSWORD} again")
    assert (visitor.get("/runs/1").status, script.get("/api/v1/runs").status) == (303, 401)


def test_sessions_survive_a_restart(tmp_path: Path) -> None:
    screened(tmp_path / "home")
    add_user(tmp_path / "home", USER, PASSWORD)
    with page_server(tmp_path / "home") as server:
        visitor = server.visitor()
        assert visitor.sign_in().status == 303
        token = visitor.csrf_token()
        assert server.end() == 0
    with page_server(tmp_path / "home") as server:
        again = Visitor(server.port, cookies=visitor.cookies)
        assert again.get("/runs/1").status == 200
        assert again.ask("POST", REVIEWS, b'{"decision": "unsure"}', {**JSON, "X-CSRF-Token": token}).status == 201
    assert stat.S_IMODE((tmp_path / "home" / "session.key").stat().st_mode) == 0o600


def test_if_the_last_user_is_removed_the_pages_do_not_open_to_everybody(tmp_path: Path) -> None:
    screened(tmp_path / "home")
    add_user(tmp_path / "home", USER, PASSWORD)
    with page_server(tmp_path / "home") as server:
        assert server.visitor((USER, PASSWORD)).get("/api/v1/runs").status == 200
        remove_user(tmp_path / "home", USER)
        assert server.visitor((USER, PASSWORD)).get("/api/v1/runs").status == 401
        assert server.visitor().get("/runs/1").status == 303
        users = tmp_path / "home" / "users"
        users.write_text("damaged\n")
        assert server.visitor().get("/healthz").status == 503
        assert server.visitor().get("/api/v1/runs").status == 503


# -- other sites --------------------------------------------------------------------------------------------------


def test_what_changes_something_needs_the_sessions_token(server: PageServer, signed_in: Visitor, home: Path) -> None:
    posts = [route for route in every_route(home) if route.method not in ("GET", "HEAD")]
    assert {route.path for route in posts} >= {"/sign-in", "/sign-out", "/runs/1/retry", REVIEWS}
    stranger = server.visitor()
    assert stranger.sign_in().status == 303
    before = embedded_reviews(home)
    for route in posts:
        for headers in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "guess"}, {"X-CSRF-Token": stranger.csrf_token()}):
            answer = signed_in.ask(route.method, route.path, b'{"decision": "agree"}', {**JSON, **headers})
            assert answer.status == 403, (route, headers)
        for fields in ({"decision": "agree"}, {"decision": "agree", "csrf_token": stranger.csrf_token()}):
            answer = signed_in.ask(route.method, route.path, urlencode(fields).encode(), {"Content-Type": FORM})
            assert answer.status == 403, (route, fields)
    assert embedded_reviews(home) == before
    token = {"X-CSRF-Token": signed_in.csrf_token()}
    assert signed_in.ask("POST", REVIEWS, b'{"decision": "agree"}', {**JSON, **token}).status == 201
    assert embedded_reviews(home) == before + 1


def embedded_reviews(home: Path) -> int:
    from db.reviews import reviews_of

    database = embedded(home)
    try:
        return len(reviews_of(database, 1, 1))
    finally:
        database.close()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_changes_nothing_even_with_token_or_password(
    server: PageServer, signed_in: Visitor, open_server: PageServer, headers: dict[str, str]
) -> None:
    token = {"X-CSRF-Token": signed_in.csrf_token()}
    for visitor in (signed_in, server.visitor((USER, PASSWORD)), open_server.visitor()):
        answer = visitor.ask("POST", REVIEWS, b'{"decision": "agree"}', {**JSON, **token, **headers})
        assert answer.status == 403
        assert "another site" in answer.text


def test_another_site_gets_no_picture_and_a_link_from_there_asks_again_with_the_cookie(
    server: PageServer, signed_in: Visitor
) -> None:
    assert signed_in.get("/api/v1/runs", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors").status == 403
    link = server.visitor().get("/runs/1?a=%22%3E", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert 'content="0; url=/runs/1?a=%22%3E"' in link.text
    assert link.headers["Set-Cookie"] is None
    twice = server.visitor().get("//evil.example/x", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
    assert 'url=/evil.example/x"' in twice.text


def test_a_large_request_is_refused_before_it_is_read_whole(server: PageServer, signed_in: Visitor) -> None:
    token = {"X-CSRF-Token": signed_in.csrf_token()}
    assert signed_in.ask("POST", REVIEWS, b" " * 70_000, {**JSON, **token}).status == 413
    assert server.visitor().ask("POST", "/sign-in", b"a" * 70_000, {"Content-Type": FORM}).status == 413


def test_every_answer_has_the_headers_that_keep_browsers_careful(server: PageServer, signed_in: Visitor) -> None:
    for visitor, path in ((signed_in, "/runs/1"), (server.visitor(), "/runs/1"), (signed_in, "/nothing")):
        headers = visitor.get(path).headers
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
        assert "Server" not in headers


# -- loopback -----------------------------------------------------------------------------------------------------


def test_without_users_this_host_gets_in_and_a_review_asks_for_a_name(open_server: PageServer) -> None:
    assert "study1_positive" in open_server.visitor().get("/runs/1").text
    script = open_server.visitor()
    nameless = script.ask("POST", REVIEWS, b'{"decision": "agree"}', JSON)
    assert (nameless.status, "reviewer" in nameless.text) == (422, True)
    assert script.ask("POST", REVIEWS, b'{"decision": "agree", "reviewer": "bob"}', JSON).status == 201
    person = open_server.visitor()
    assert person.send_form("/sign-in", name="carol").status == 303
    token = {"X-CSRF-Token": person.csrf_token()}
    reviewed = person.ask("POST", REVIEWS, b'{"decision": "disagree"}', {**JSON, **token})
    assert (reviewed.status, '"reviewer":"carol"' in reviewed.text) == (201, True)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "", "localhost.evil.example", "192.0.2.1", "[::"]
)
def test_without_users_no_other_name_is_answered(open_server: PageServer, host: str) -> None:
    for path in ("/runs/1", "/api/v1/runs", "/healthz", "/sign-in", "/static/style.css"):
        answer = open_server.visitor().get(path, Host=host)
        assert answer.status == 421
        assert POSITIVE not in answer.text
    assert "bonescreen users add NAME" in open_server.visitor().get("/", Host=host).text


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1", "127.8.9.1:80", "[::1]:8000"])
def test_without_users_every_name_of_loopback_is_answered(open_server: PageServer, host: str) -> None:
    assert open_server.visitor().get("/runs/1", Host=host).status == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Host"])
def test_without_users_a_proxy_is_not_answered(open_server: PageServer, header: str) -> None:
    answer = open_server.visitor().get("/runs/1", **{header.replace("-", "_"): "10.0.0.1"})
    assert answer.status == 403
    assert "bonescreen users add NAME" in answer.text


def test_open_pages_close_with_the_first_user(tmp_path: Path) -> None:
    screened(tmp_path / "home")
    with page_server(tmp_path / "home") as server:
        visitor = server.visitor()
        assert visitor.send_form("/sign-in", name="carol").status == 303
        assert visitor.get("/runs/1").status == 200
        add_user(tmp_path / "home", USER, PASSWORD)
        assert visitor.get("/runs/1").status == 303
        assert (
            server.visitor((USER, PASSWORD)).get("/runs/1", X_Forwarded_For="10.0.0.1", Host="a.example").status == 200
        )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_pages_do_not_listen_where_other_hosts_reach_them_without_a_user(
    bonescreen: Bonescreen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("BONESCREEN_HOME", str(tmp_path / "home"))
    screened(tmp_path / "home")
    done = bonescreen("serve", "--host", host)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "bonescreen users add NAME" in done.err


# -- the process --------------------------------------------------------------------------------------------------


def test_the_log_has_no_study_path_patient_or_search(tmp_path: Path) -> None:
    screened(tmp_path / "home")
    add_user(tmp_path / "home", USER, PASSWORD)
    with page_server(tmp_path / "home", BONESCREEN_LOG_LEVEL="debug") as server:
        visitor = server.visitor()
        visitor.sign_in()
        for path in (
            "/runs/1?text=Zebra",
            "/runs/1/studies/1",
            "/api/v1/runs/1/studies?text=Zebra",
            "/Zebra",
            "/api/v1/images/1/1/image.png",
        ):
            visitor.get(path)
        visitor.sign_in(USER, "Zebra Zebra Zebra")
        assert server.end() == 0
        log = server.log.read_text()
    for secret in ("Zebra", POSITIVE, NEGATIVE, "patient1", USER, PASSWORD, "studies/1"):
        assert secret not in log, secret
    assert "Pages: http://127.0.0.1:" in log


def test_a_port_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    environ = {**os.environ, "BONESCREEN_HOME": str(tmp_path / "home")}
    screened(tmp_path / "home")
    with page_server(tmp_path / "home") as server:
        done = run(environ, "serve", "--port", server.port)
    assert done.returncode == 1
    assert done.stderr == (
        f"error: cannot listen on 127.0.0.1 port {server.port} (Address already in use); "
        "choose a different one with --port\n"
    )


TRACED = """
import asyncio, sys
from pathlib import Path
from opentelemetry import trace

class Provider(trace.TracerProvider):
    def get_tracer(self, *arguments, **named):
        return Tracer()

class Tracer(trace.NoOpTracer):
    def start_span(self, name, *arguments, **named):
        print("reported", name, named.get("attributes"))
        return super().start_span(name, *arguments, **named)

trace.set_tracer_provider(Provider())
from bonescreen.pages.app import make_app
from db.session import Database
from xray.settings import read_settings

settings = read_settings({"BONESCREEN_HOME": sys.argv[1]})
app = make_app(settings, Database(settings.effective_database_url), loopback=True)
scope = {"type": "http", "method": "GET", "path": "/runs/1", "raw_path": b"/runs/1", "query_string": b"text=Zebra",
         "headers": [(b"host", b"localhost")], "scheme": "http", "http_version": "1.1", "root_path": ""}

async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}

async def send(message):
    print(message.get("status", ""))

asyncio.run(app(scope, receive, send))
"""


def test_no_request_is_reported_to_opentelemetry(tmp_path: Path) -> None:
    screened(tmp_path / "home")
    command = [sys.executable, "-c", TRACED, str(tmp_path / "home")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * PATIENCE)
    assert (done.returncode, done.stdout.split()) == (0, ["200"]), done.stderr
