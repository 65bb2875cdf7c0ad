"""What holds of each page, in a real browser: accessibility, the research notice, and a phone's width."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.bonescreen.browser.screened_pages import (
    DESKTOP,
    PHONE,
    Served,
    complaints_of,
)
from tests.bonescreen.screened_archive import (
    STUDIES,
)
from xray.vocabulary import RESEARCH_NOTICE


def every_page(page: Page) -> Iterator[str]:
    """Open each page, as a person reaches it; gives its address."""
    page.goto("/runs/1")
    studies = [page.get_by_role("link", name=key, exact=True).get_attribute("href") for key in STUDIES]
    page.goto("/")
    model = page.locator("#model-1").get_attribute("href")
    paths = ["/", "/runs/1", "/runs/1?text=nothing", "/runs/1/failures", "/runs/1/compare", "/runs/1/compare/2"]
    for path in (*paths, model, "/sign-in", *studies[:2], studies[-1]):
        page.goto(str(path))
        yield str(path)


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_no_page_has_serious_findings_of_axe_or_lacks_the_research_notice(
    browser: Browser, served: Served, theme: Any
) -> None:
    context = browser.new_context(base_url=served.url, viewport=DESKTOP, color_scheme=theme)
    complaints = complaints_of(context)
    page = context.new_page()
    findings = {}
    for path in every_page(page):
        expect(page.get_by_text(RESEARCH_NOTICE).first).to_be_visible()
        findings[path] = serious(page)
    page.keyboard.press("?")
    findings["help"] = serious(page)
    context.close()
    assert {path: found for path, found in findings.items() if found} == {}
    assert complaints == []


def test_no_page_is_wider_than_a_phone(browser: Browser, served: Served) -> None:
    context = browser.new_context(base_url=served.url, viewport=PHONE, has_touch=True, is_mobile=True)
    page = context.new_page()
    widths = {path: page.evaluate("document.documentElement.scrollWidth") for path in every_page(page)}
    context.close()
    assert {path: width for path, width in widths.items() if width > PHONE["width"]} == {}


def serious(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [
        json.dumps([each["id"], each["help"], [node["html"] for node in each["nodes"]][:3]])
        for each in found
        if each["impact"] in ("serious", "critical")
    ]
