"""The pages of `bonescreen serve` as a person uses them: in a real browser, on a real server."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.bonescreen.browser.screened_pages import DESKTOP, Served, complaints_of, serve
from tests.bonescreen.screened_archive import screen
from xray.network.package import ModelPackage


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_package: ModelPackage) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("pages")
    home, root = folder / "home", folder / "clinic"
    database = screen(home, root, tiny_package)
    with serve(home, tiny_package) as url:
        yield Served(url, home, database, root, tiny_package)
    database.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Debian's own, whose sandbox does not start as root.
        launched = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def person(browser: Browser, served: Served) -> Iterator[BrowserContext]:
    """A person's browser; whatever a page's script or the content security policy complains of fails the test."""
    context = browser.new_context(base_url=served.url, viewport=DESKTOP)
    complaints = complaints_of(context)
    yield context
    context.close()
    assert complaints == []


@pytest.fixture
def page(person: BrowserContext) -> Page:
    return person.new_page()
