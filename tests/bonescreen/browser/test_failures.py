"""The list of failures in a real browser."""

from playwright.sync_api import BrowserContext, Page, expect

from tests.bonescreen.browser.screened_pages import (
    Served,
    expect_study,
    open_study,
)
from tests.bonescreen.screened_archive import (
    Shot,
    finish,
    model_of,
)


def test_failures_are_listed_by_reason_and_read_again(page: Page, served: Served) -> None:
    model = model_of(served.package)
    page.goto("/runs/1")
    page.get_by_role("link", name="Failures (2)").click()
    expect(page.get_by_role("heading", name="2 images: the file ends before the image does")).to_be_visible()
    expect(page.get_by_text("Copy the file again")).to_be_visible()
    page.get_by_role("button", name="Read all 2 again").click()
    expect(page.get_by_text("2 images will be read again.")).to_be_visible()
    expect(page.get_by_text(f"bonescreen screen {served.root}")).to_be_visible()
    # As a worker does, for which one file is whole now.
    paths = {"WRIST/half/image1.png": 0.2, "WRIST/none/image0.png": None}
    assert finish(served.database, model, served.root, paths, {path: Shot(None, None) for path in paths}) == 2
    page.goto("/runs/1/failures")
    expect(page.get_by_role("heading", name="1 image: the file ends before the image does")).to_be_visible()
    page.get_by_role("link", name="WRIST/none").click()
    expect_study(page, "WRIST/none")
    open_study(page, "WRIST/half")
    expect(page.locator(".panel .result")).to_have_text("negative")


def test_a_place_in_the_failures_that_no_image_has_is_not_found(person: BrowserContext) -> None:
    assert [person.request.get(f"/runs/1/failures?after={after}").status for after in (10**25, -1)] == [404, 404]
