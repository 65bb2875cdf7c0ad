"""Sign-in, links and forms of other sites, and the API's page, in a real browser."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from bonescreen.pages.users import add_user, remove_user
from tests.awaiting import PATIENCE
from tests.bonescreen.browser.screened_pages import DESKTOP, serve
from tests.bonescreen.page_server import PASSWORD, USER, PageServer, page_server
from tests.bonescreen.screened_archive import screen
from tests.ledgers import screened
from xray.network.package import ModelPackage


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    home = tmp_path_factory.mktemp("browser") / "home"
    screened(home)
    add_user(home, USER, PASSWORD)
    with page_server(home) as server:
        yield server


@pytest.fixture
def page(browser: Browser, server: PageServer) -> Iterator[Page]:
    """A browser's page of somebody who is not signed in."""
    with browser.new_context(base_url=f"http://localhost:{server.port}") as context:
        context.set_default_timeout(10_000 * PATIENCE)
        yield context.new_page()


def sign_in(page: Page) -> None:
    page.get_by_label("Name").fill(USER)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()


def test_the_page_of_the_api_works_with_nothing_from_elsewhere(page: Page, server: PageServer) -> None:
    complaints: list[str] = []
    elsewhere: list[str] = []
    here = (f"http://localhost:{server.port}/", "data:")
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: None if request.url.startswith(here) else elsewhere.append(request.url))
    page.goto("/api/docs")
    sign_in(page)
    operation = page.locator("#operations-failures-post_retry_api_v1_runs__run__retry_post")
    operation.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_placeholder("run").fill("1")
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table .highlight-code")).to_contain_text('"retried": 2')
    assert (complaints, elsewhere) == ([], [])


def test_a_link_of_another_site_leads_to_the_page_and_its_form_and_picture_to_nothing(
    page: Page, server: PageServer
) -> None:
    ours = f"http://localhost:{server.port}"

    class OtherSite(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(
                f'<a href="{ours}/runs/1">link</a><form method="post" action="{ours}/runs/1/retry"><button>go</button>'
                f'</form><img src="{ours}/static/api-docs/favicon.png" onload="document.title += \' static\'">'
                f'<img src="{ours}/api/docs" onerror="document.title += \' refused\'">'.encode()
            )

        def log_message(self, format: str, *args: object) -> None: ...

    # Of another site than localhost, as no name of two parts is shared.
    with HTTPServer(("127.0.0.1", 0), OtherSite) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        page.goto("/runs/1")
        sign_in(page)
        expect(page).to_have_url(f"{ours}/runs/1")
        page.goto(f"http://127.0.0.1:{other.server_address[1]}/")
        expect(page).to_have_title("refused")
        page.get_by_role("link").click()
        expect(page.locator("h1")).to_contain_text("Run 1")
        page.goto(f"http://127.0.0.1:{other.server_address[1]}/")
        page.get_by_role("button").click()
        expect(page.locator("body")).to_contain_text("another site sent this request")
        other.shutdown()


def test_signing_out_leads_back_to_sign_in(page: Page) -> None:
    page.goto("/runs/1")
    sign_in(page)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Password")).to_be_visible()
    page.goto("/runs/1")
    expect(page.get_by_label("Password")).to_be_visible()


def test_a_page_left_open_leads_to_where_to_sign_in_once_its_person_may_no_longer_see_it(
    browser: Browser, tiny_package: ModelPackage, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    screen(home, tmp_path / "clinic", tiny_package).close()
    add_user(home, "ada", "a long password")
    with serve(home, tiny_package) as url:
        context = browser.new_context(base_url=url, viewport=DESKTOP)
        page = context.new_page()
        page.goto("/runs/1?body_part=WRIST")
        page.get_by_label("Name").fill("ada")
        page.get_by_label("Password").fill("a long password")
        page.get_by_role("button", name="Sign in").click()
        expect(page.locator("#count")).to_contain_text("3 studies")
        page.wait_for_load_state()
        remove_user(home, "ada")
        page.get_by_label("Body part").select_option("HAND")
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert page.get_by_text("WRIST").count() == 0
        context.close()
