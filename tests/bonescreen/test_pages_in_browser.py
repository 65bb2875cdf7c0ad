"""The pages of `bonescreen serve` as a person uses them: in a real browser, on a real server."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect, sync_playwright

from bonescreen.pages.users import add_user, remove_user
from db.reviews import reviews_of
from db.session import Database
from tests.awaiting import PATIENCE, await_that
from tests.bonescreen.screened_archive import (
    MARKUP,
    SIDE,
    STUDIES,
    Shot,
    begin_run,
    finish,
    model_of,
    screen,
    write_ramp,
)
from tests.broker import free_port
from tests.seeding import found_files
from xray.network.package import ModelPackage, load_package
from xray.vocabulary import RESEARCH_NOTICE

DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@dataclass(frozen=True)
class Served:
    """A running `bonescreen serve`, its database, and the archive that is screened in it."""

    url: str
    home: Path
    database: Database
    root: Path
    package: ModelPackage


@contextmanager
def serve(home: Path, package: ModelPackage) -> Iterator[str]:
    """Run `bonescreen serve` until the block ends; gives its address."""
    port, log = free_port(), home / "serve.log"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BONESCREEN_")}
    settings = {"HOME": str(home), "MODEL": str(package.path), "KEEP": "accession"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bonescreen", "serve", "--port", str(port)],
            env={**clean, **{f"BONESCREEN_{name}": value for name, value in settings.items()}, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        await_that(lambda: f":{port}/" in log.read_text(), 30, "the pages are served")
        yield f"http://127.0.0.1:{port}"
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


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
    complaints = _complaints(context)
    yield context
    context.close()
    assert complaints == []


@pytest.fixture
def page(person: BrowserContext) -> Page:
    return person.new_page()


def _complaints(context: BrowserContext) -> list[str]:
    context.set_default_timeout(5_000 * PATIENCE)
    found: list[str] = []
    context.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    context.on("weberror", lambda error: found.append(str(error.error)))
    return found


def keys(page: Page) -> list[str]:
    return page.locator("#worklist a.row-link").all_inner_texts()


def await_pictures(page: Page) -> None:
    # Playwright's own waiting needs eval, which the pages forbid.
    shown = f"[...document.querySelectorAll('.picture img')].every((img) => img.naturalWidth === {SIDE})"
    await_that(lambda: page.evaluate(shown), 10, "the pictures are there")


def expect_study(page: Page, key: str) -> None:
    """Wait for a study's page, and until it takes keys."""
    expect(page.locator("h1")).to_have_text(key)
    page.wait_for_load_state("domcontentloaded")


def open_study(page: Page, key: str, query: str = "") -> None:
    page.goto(f"/runs/1{query}")
    page.get_by_role("link", name=key, exact=True).click()
    expect_study(page, key)


def study_id(page: Page) -> int:
    found = re.search(r"/studies/(\d+)", page.url)
    assert found is not None
    return int(found[1])


def pixels(stage: Locator) -> "np.ndarray[Any, Any]":
    """The gray levels of a row in the upper half of a stage, as they are on the screen."""
    picture = Image.open(io.BytesIO(stage.screenshot())).convert("L")
    return np.asarray(picture)[picture.height // 5].astype(int)


# -- runs ---------------------------------------------------------------------------------------------------------


def test_progress_of_a_run_is_counted_without_reloading_the_page(page: Page, served: Served) -> None:
    files, root = found_files(studies=4), served.root.parent / "night"
    for number, file in enumerate(files):
        write_ramp(root / file.path, 100 + number)
    # Of a model whose package is not installed where the pages are.
    model = replace(model_of(served.package), name="gone", digest="cd" * 32, queue="screen.gone.fp32")
    run = begin_run(served.database, root, files, model)
    page.goto("/")
    row = page.locator(f"section[aria-labelledby=run-{run}]")
    expect(row).to_contain_text("running, 0 of 4 images processed (0 %)")
    page.evaluate("window.sameDocument = true")
    shots = {file.path: Shot(0.9, None) for file in files}
    finish(served.database, model, served.root.parent / "night", dict.fromkeys(shots, 0.9), shots, batches=1)
    expect(row).to_contain_text("2 of 4 images processed (50 %)")
    expect(row.get_by_role("progressbar")).to_have_attribute("value", "2")
    finish(served.database, model, served.root.parent / "night", dict.fromkeys(shots, 0.9), shots)
    expect(row).to_contain_text("done, 4 of 4 images")
    expect(row).to_contain_text("4 of 4 studies flagged")
    assert page.evaluate("window.sameDocument")
    row.get_by_role("link", name="Model").click()
    expect(page.get_by_text("package is not installed here")).to_be_visible()
    page.goto(f"/runs/{run}")
    page.locator("a.row-link").first.click()
    expect(page.get_by_text("there are no heat maps")).to_be_visible()
    expect(page.locator(".panel .result")).to_have_text("positive: fracture")


# -- worklist -----------------------------------------------------------------------------------------------------


def test_a_worklist_is_in_order_of_score_and_filters_without_reloading(page: Page) -> None:
    page.goto("/runs/1")
    assert keys(page) == ["HAND/ann", "HAND/dark", "WRIST/ben", "WRIST/half", MARKUP, "WRIST/none"]
    page.evaluate("window.sameDocument = true")
    page.get_by_label("Body part").select_option("wrist")
    expect(page.locator("#count")).to_contain_text("3 studies")
    assert keys(page) == ["WRIST/ben", "WRIST/half", "WRIST/none"]
    page.get_by_label("Score from").fill("0,35")
    expect(page.locator("#count")).to_contain_text("1 study")
    assert keys(page) == ["WRIST/ben"]
    assert page.url.endswith("?body_part=WRIST&min_score=0%2C35")
    assert page.evaluate("window.sameDocument")
    # The address alone gives the same list, for a bookmark or a colleague.
    page.reload()
    assert keys(page) == ["WRIST/ben"]
    expect(page.get_by_label("Score from")).to_have_value("0,35")


def test_a_search_finds_studies_by_key_and_accession_number(page: Page) -> None:
    page.goto("/runs/1")
    page.keyboard.press("/")
    page.keyboard.type("HAND/d")
    expect(page.locator("#count")).to_contain_text("1 study")
    assert keys(page) == ["HAND/dark"]
    page.get_by_label("Study or accession number").fill("A-3")
    expect(page.get_by_role("link", name="WRIST/ben")).to_be_visible()
    assert keys(page) == ["WRIST/ben"]


def test_a_filter_that_cannot_be_read_is_named_and_lists_nothing(page: Page) -> None:
    page.goto("/runs/1")
    page.get_by_label("Score to").fill("high")
    expect(page.get_by_role("alert").filter(has_text="number from 0 to 1")).to_be_visible()
    assert keys(page) == []


def test_a_study_with_an_image_that_was_not_read_is_not_called_negative(page: Page) -> None:
    page.goto("/runs/1")
    for key, result in (("WRIST/half", "incomplete"), ("WRIST/none", "not assessable")):
        row = page.get_by_role("row").filter(has_text=key)
        expect(row.locator(".result")).to_have_text(result)
        open_study(page, key)
        expect(page.locator(".panel .result")).to_have_text(result)
        expect(page.get_by_role("region", name="Result and review")).to_contain_text("negative")
        expect(page.get_by_text("Could not be read: the file ends before the image does")).to_be_visible()
        page.goto("/runs/1")
    expect(page.get_by_text("2 studies without a result: 1 incomplete, 1 not assessable. Not negative")).to_be_visible()


def test_names_from_the_archive_are_text_and_never_markup(page: Page) -> None:
    open_study(page, MARKUP)
    expect(page).to_have_title(f"{MARKUP} - bonescreen")
    assert page.locator("img[src=x]").count() == 0


# -- study --------------------------------------------------------------------------------------------------------


def test_the_heat_map_is_laid_over_the_image_and_its_slider_fades_it(page: Page) -> None:
    open_study(page, "HAND/ann")
    stage, heat = page.locator(".stage").first, page.locator(".heat").first
    await_pictures(page)
    with_map = pixels(stage)
    opacity = page.get_by_label("Opacity")
    opacity.fill("0")
    expect(heat).to_have_css("opacity", "0")
    without_map = pixels(stage)
    assert np.abs(with_map - without_map).max() > 20
    opacity.fill("50")
    half = pixels(stage)
    assert np.abs(half - (with_map + without_map) / 2).max() < 4
    page.keyboard.press("h")
    expect(heat).to_be_hidden()
    expect(page.get_by_role("button", name="Heat map")).to_have_attribute("aria-pressed", "false")
    assert np.array_equal(pixels(stage), without_map)
    page.reload()
    expect(page.get_by_role("button", name="Heat map")).to_have_attribute("aria-pressed", "false")


def test_a_dark_heat_map_is_said_to_be_dark_and_offers_its_own_scale_marked(page: Page) -> None:
    open_study(page, "HAND/ann")
    assert page.get_by_text("stays dark").count() == 0
    open_study(page, "HAND/dark")
    expect(page.get_by_text("stays dark on the common scale")).to_be_visible()
    mark = page.get_by_text("own scale: do not compare")
    expect(mark).to_be_hidden()
    await_pictures(page)
    before = pixels(page.locator(".stage").first)
    with page.expect_response(re.compile(r"heatmap\.png\?scale=own$")):
        page.get_by_role("button", name="Show on its own scale").click()
    expect(mark).to_be_visible()
    await_that(lambda: np.abs(pixels(page.locator(".stage").first) - before).max() > 20, 10, "the map is bright")
    page.get_by_role("button", name="Show on its own scale").click()
    expect(mark).to_be_hidden()


def test_a_picture_that_cannot_be_shown_any_more_says_why(browser: Browser, served: Served) -> None:
    files, root = found_files(studies=1), served.root.parent / "changed"
    write_ramp(root / files[0].path, 200)
    model = model_of(served.package)
    run = begin_run(served.database, root, files, model)
    assert finish(served.database, model, root, {files[0].path: 0.9}, {files[0].path: Shot(0.9, None)}) == 1
    write_ramp(root / files[0].path, 201)
    context = browser.new_context(base_url=served.url, viewport=DESKTOP)
    page = context.new_page()
    page.goto(f"/runs/{run}")
    page.locator("a.row-link").click()
    expect(page.get_by_text("the file has changed since it was screened; screen its archive again")).to_be_visible()
    context.close()


def test_an_image_zooms_by_wheel_button_and_key_and_is_moved_by_dragging(page: Page) -> None:
    open_study(page, "HAND/ann")
    first, second = page.locator(".stage").nth(0), page.locator(".stage").nth(1)
    box = first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 2

    def place(stage: Locator) -> tuple[float, float, float]:
        found = stage.locator(".picture").evaluate("(e) => getComputedStyle(e).transform")
        zoom, _, _, _, left, top = map(float, re.findall(r"-?[\d.e-]+", found))
        return zoom, left, top

    assert place(first) == (1, 0, 0)
    page.mouse.move(x, y)
    page.mouse.wheel(0, -300)
    await_that(lambda: place(first)[0] > 1.5, 10, "the wheel zooms")
    zoom, left, _ = place(first)
    # The point under the pointer stays there.
    assert left == pytest.approx((x - box["x"]) * (1 - zoom), abs=1)
    assert place(second) == (1, 0, 0)
    page.mouse.down()
    page.mouse.move(x - 30, y - 20, steps=3)
    page.mouse.up()
    assert place(first)[1] == pytest.approx(left - 30, abs=1)
    page.keyboard.press("0")
    assert place(first) == (1, 0, 0)
    page.get_by_role("button", name="Zoom in").click()
    page.keyboard.press("+")
    assert place(second)[0] == pytest.approx(1.3**2)
    page.keyboard.press("-")
    assert place(second)[0] == pytest.approx(1.3)


def test_without_the_model_package_images_are_zoomed_and_enlarged_all_the_same(
    browser: Browser, served: Served, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    screen(home, tmp_path / "clinic", served.package).close()
    with serve(home, load_package("fracture-5")) as url:
        context = browser.new_context(base_url=url, viewport=DESKTOP)
        complaints = _complaints(context)
        page = context.new_page()
        open_study(page, "HAND/ann")
        expect(page.get_by_text("The model package is not installed here")).to_be_visible()
        page.get_by_role("button", name="Zoom in").click()
        expect(page.locator(".values").first).to_have_text("zoom 1.3")
        page.get_by_role("button", name="Window").click()
        expect(page.locator(".stage.windowing")).to_have_count(2)
        page.keyboard.press("h")
        page.get_by_role("button", name="Enlarge").first.click()
        expect(page.locator("figure.image:visible")).to_have_count(1)
        context.close()
        assert complaints == []


def test_many_images_of_a_study_are_beside_each_other(page: Page, served: Served) -> None:
    (file,) = found_files(studies=1)
    files = [replace(file, path=f"study/{number}.png") for number in range(10)]
    root, model = served.root.parent / "many", model_of(served.package)
    run = begin_run(served.database, root, files, model)
    unread = {each.path: None for each in files}
    assert finish(served.database, model, root, unread, dict.fromkeys(unread, Shot(None, None))) == 10
    page.goto(f"/runs/{run}")
    page.locator("a.row-link").click()
    expect(page.locator("figure.image")).to_have_count(10)
    places = "[...document.querySelectorAll('figure.image')].map((figure) => figure.getBoundingClientRect().left)"
    assert len(set(page.evaluate(places))) == 4


def test_an_image_out_of_the_models_scope_has_no_heat_map(page: Page, served: Served) -> None:
    (file,) = found_files(studies=1)
    file = replace(file, path="chest.png", placement=replace(file.placement, body_part="CHEST"))
    root, model = served.root.parent / "chests", model_of(served.package)
    write_ramp(root / file.path, 210)
    run = begin_run(served.database, root, [file], model)
    assert finish(served.database, model, root, {file.path: 0.9}, {file.path: Shot(0.9, None)}) == 1
    page.goto(f"/runs/{run}")
    page.locator("a.row-link").click()
    expect(page.locator(".panel .result")).to_have_text("out of scope")
    expect(page.locator("img.radiograph")).to_have_count(1)
    assert page.locator("img.heat").count() == 0


def test_two_fingers_zoom_an_image_and_one_moves_it(browser: Browser, served: Served) -> None:
    context = browser.new_context(base_url=served.url, viewport=PHONE, has_touch=True, is_mobile=True)
    complaints = _complaints(context)
    page = context.new_page()
    open_study(page, "HAND/ann")
    stage = page.locator(".stage").first
    box = stage.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touches = context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        listed = [{"x": px, "y": py, "id": number} for number, (px, py) in enumerate(points)]
        touches.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": listed})

    touch("touchStart", (x - 30, y), (x + 30, y))
    touch("touchMove", (x - 60, y), (x + 60, y))
    touch("touchEnd")
    expect(stage.locator(".values")).to_have_text("zoom 2.0")
    before = stage.evaluate("(stage) => parseFloat(stage.style.getPropertyValue('--x'))")
    touch("touchStart", (x, y))
    touch("touchMove", (x + 20, y))
    touch("touchEnd")
    moved = stage.evaluate("(stage) => parseFloat(stage.style.getPropertyValue('--x'))")
    assert moved == pytest.approx(before + 20, abs=1)
    context.close()
    assert complaints == []


def test_dragging_with_the_right_button_sets_an_exact_window_and_a_double_click_resets_it(page: Page) -> None:
    open_study(page, "HAND/ann")
    page.get_by_label("Opacity").fill("0")
    await_pictures(page)
    stage = page.locator(".stage").first
    box = stage.bounding_box()
    assert box is not None
    before = pixels(stage)
    x, y = box["x"] + box["width"] / 2, box["y"] + 30
    page.mouse.move(x, y)
    page.mouse.down(button="right")
    page.mouse.move(x - 155, y + 40.5, steps=4)
    page.mouse.up(button="right")
    expect(stage.locator(".values")).to_contain_text("window 100, level 168")
    expected = np.clip((before - (168 - 50)) * 255 / 100, 0, 255)
    # The border may be between two pixels of the screen.
    assert np.abs(pixels(stage) - expected)[2:-2].max() <= 4
    assert page.locator(".values").nth(1).inner_text() == ""
    stage.dblclick()
    expect(stage.locator(".values")).to_have_text("")
    assert np.array_equal(pixels(stage), before)


def test_keys_change_the_window_of_the_image_that_has_the_focus(page: Page) -> None:
    open_study(page, "HAND/ann")
    page.keyboard.press("w")
    page.locator(".stage").first.focus()
    page.keyboard.press("Shift+ArrowLeft")
    expect(page.locator(".values").first).to_have_text("window 250, level 128")
    page.keyboard.press("Shift+ArrowDown")
    expect(page.locator(".values").first).to_have_text("window 250, level 133")
    assert page.locator(".values").nth(1).inner_text() == ""
    page.keyboard.press("0")
    expect(page.locator(".values").first).to_have_text("")


def test_a_large_picture_is_loaded_in_full_once_it_is_zoomed(page: Page, served: Served) -> None:
    files, root = found_files(studies=1), served.root.parent / "large"
    (root / files[0].path).parent.mkdir(parents=True)
    Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (64, 12))).save(root / files[0].path)
    model = model_of(served.package)
    run = begin_run(served.database, root, files, model)
    assert finish(served.database, model, root, {files[0].path: 0.9}, {files[0].path: Shot(0.9, None)}) == 1
    page.goto(f"/runs/{run}")
    page.locator("a.row-link").click()
    image, width = page.locator(".radiograph"), "(image) => image.naturalWidth"
    await_that(lambda: image.evaluate(width) == 2048, 10, "the picture is reduced")
    page.wait_for_load_state()
    page.keyboard.press("+")
    await_that(lambda: image.evaluate(width) == 3072, 10, "the whole picture is there")


def test_a_study_page_says_what_the_model_found_and_what_people_know(page: Page) -> None:
    open_study(page, "HAND/ann")
    panel = page.get_by_role("region", name="Result and review")
    for text in ("positive: fracture", "0.900", "the mean of 2 images", "0.950", "0.500", "tiny 1", "A-1"):
        expect(panel).to_contain_text(text)
    expect(panel.locator("dl")).to_contain_text(["score", "human labelpositive"])
    expect(page.get_by_text("low evidence")).to_be_visible()
    expect(page.get_by_text("high evidence")).to_be_visible()
    page.keyboard.press("2")
    expect(page.locator(".stage").first).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator(".stage").first).to_be_visible()


def test_keys_go_through_the_filtered_worklist_and_back_to_it(page: Page) -> None:
    page.goto("/runs/1?body_part=WRIST")
    page.keyboard.press("j")
    expect(page.get_by_role("link", name="WRIST/ben")).to_be_focused()
    page.keyboard.press("Enter")
    expect_study(page, "WRIST/ben")
    page.keyboard.press("j")
    expect_study(page, "WRIST/half")
    page.keyboard.press("ArrowRight")
    expect_study(page, "WRIST/none")
    page.keyboard.press("k")
    expect_study(page, "WRIST/half")
    page.keyboard.press("l")
    expect(page.locator("#count")).to_contain_text("3 studies")


def test_the_help_names_the_keys_and_closes_again(page: Page) -> None:
    for path in ("/", "/runs/1", "/runs/1/failures"):
        page.goto(path)
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_be_hidden()
    open_study(page, "HAND/ann")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("agree, disagree, unsure")
    # Behind the help, keys do nothing.
    page.keyboard.press("j")
    page.get_by_label("Use these keys").uncheck()
    page.get_by_role("button", name="Close").click()
    page.keyboard.press("j")
    expect_study(page, "HAND/ann")
    page.keyboard.press("?")
    page.get_by_label("Use these keys").check()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    expect_study(page, "HAND/dark")


# -- reviews ------------------------------------------------------------------------------------------------------


def test_a_review_is_stored_goes_on_to_the_next_study_and_is_seen_in_a_second_browser(
    page: Page, browser: Browser, served: Served
) -> None:
    open_study(page, "WRIST/ben", "?body_part=WRIST")
    reviewed = study_id(page)
    # Without a name, the key only asks for it.
    page.keyboard.press("d")
    expect(page.get_by_label("Your name")).to_be_focused()
    page.get_by_label("Your name").fill("Dr. Ada")
    page.get_by_label("Note").fill("two lines <b>\nof a note")
    page.get_by_role("button", name="Disagree").click()
    expect_study(page, "WRIST/half")
    expect(page.get_by_role("status").filter(has_text="is stored")).to_be_visible()
    stored = reviews_of(served.database, 1, reviewed)
    assert [(each.decision, each.reviewer, each.note) for each in stored] == [
        ("disagree", "Dr. Ada", "two lines <b>\nof a note")
    ]
    context = browser.new_context(base_url=served.url, viewport=DESKTOP)
    complaints = _complaints(context)
    colleague = context.new_page()
    colleague.goto("/runs/1")
    expect(colleague.get_by_role("row").filter(has_text="WRIST/ben")).to_contain_text("disagree")
    open_study(colleague, "WRIST/ben")
    expect(colleague.get_by_text("two lines <b>")).to_be_visible()
    expect(colleague.get_by_role("region", name="Result and review")).to_contain_text(
        "1 study reviewed: 0 agree, 1 disagree"
    )
    # Another one is added, and nothing is overwritten; on this page, as it is asked to stay.
    colleague.get_by_label("Your name").fill("Ben")
    colleague.get_by_label("Stay on this study").check()
    colleague.get_by_role("button", name="Agree", exact=False).filter(has_not_text="Dis").click()
    expect(colleague.locator(".history li")).to_have_count(2)
    expect(colleague.locator("h1")).to_have_text("WRIST/ben")
    context.close()
    assert complaints == []
    assert [each.decision for each in reviews_of(served.database, 1, reviewed)] == ["agree", "disagree"]
    page.goto("/runs/1?reviewed=true")
    assert keys(page) == ["WRIST/ben"]


def test_enter_after_a_name_decides_nothing_and_gives_the_keys_back(page: Page, served: Served) -> None:
    open_study(page, MARKUP)
    reviewed = study_id(page)
    page.keyboard.press("d")
    expect(page.get_by_label("Your name")).to_be_focused()
    page.keyboard.type("Eve")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your name")).not_to_be_focused()
    page.keyboard.press("d")
    page.wait_for_url(lambda url: "stored=" in url or "last=" in url)
    assert [(each.decision, each.reviewer) for each in reviews_of(served.database, 1, reviewed)] == [
        ("disagree", "Eve")
    ]


def test_a_result_that_has_changed_since_the_page_was_loaded_is_shown_before_it_is_reviewed(
    browser: Browser, served: Served
) -> None:
    files, root = found_files(studies=1), served.root.parent / "grows"
    (known, later), model = [replace(files[0], path=f"study/{n}.png") for n in "ab"], model_of(served.package)
    for number, file in enumerate((known, later), 220):
        write_ramp(root / file.path, number)
    shots = {file.path: Shot(0.1, None) for file in (known, later)}
    run = begin_run(served.database, root, [known], model)
    assert finish(served.database, model, root, {known.path: 0.1}, shots) == 1
    context = browser.new_context(base_url=served.url, viewport=DESKTOP)
    page = context.new_page()
    page.goto(f"/runs/{run}")
    page.locator("a.row-link").click()
    expect(page.locator(".panel .result")).to_have_text("negative")
    begin_run(served.database, root, [known, later], model)
    assert finish(served.database, model, root, {later.path: 0.98}, shots) == 1
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Note").fill("a note")
    with page.expect_response(lambda answer: answer.request.method == "POST") as answer:
        page.get_by_role("button", name="Agree", exact=False).filter(has_not_text="Dis").click()
    assert answer.value.status == 409
    expect(page.get_by_role("alert").filter(has_text="The result has changed since you saw it")).to_be_visible()
    expect(page.locator(".panel .result")).to_have_text("positive: fracture")
    expect(page.get_by_label("Note")).to_have_value("a note")
    assert reviews_of(served.database, run, study_id(page)) == []
    context.close()


def test_the_last_study_of_a_list_leads_back_to_the_list(page: Page) -> None:
    open_study(page, "HAND/dark", "?text=HAND%2Fdark")
    page.get_by_label("Your name").fill("Ada")
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("u")
    expect(page.get_by_role("status").filter(has_text="That was the last study of this list")).to_be_visible()


def test_a_page_left_open_leads_to_where_to_sign_in_once_its_person_may_no_longer_see_it(
    browser: Browser, served: Served, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    screen(home, tmp_path / "clinic", served.package).close()
    add_user(home, "ada", "a long password")
    with serve(home, served.package) as url:
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


# -- failures -----------------------------------------------------------------------------------------------------


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


# -- comparison and model -----------------------------------------------------------------------------------------


def test_two_runs_are_beside_each_other_with_disagreements_first(page: Page) -> None:
    page.goto("/runs/1")
    page.get_by_role("link", name="Compare with another run").click()
    page.get_by_role("link", name="Run 2").click()
    expect(page.locator("h1")).to_have_text("Run 1 beside run 2")
    rows = page.locator("section[aria-labelledby=studies-title] tbody tr")
    expect(rows.first).to_contain_text("WRIST/ben")
    expect(rows.first).to_contain_text("labels differ")
    assert page.locator(".scatter circle.other").count() == 1
    expect(page.get_by_role("row", name=re.compile("run 1 negative"))).to_contain_text("1")
    rows.first.get_by_role("link", name="Run 2").click()
    expect(page.locator(".panel .result")).to_have_text("positive: fracture")


def test_a_models_page_reads_its_card(page: Page, served: Served) -> None:
    page.goto("/")
    page.locator("#model-1").click()
    expect(page.locator("h1")).to_have_text("tiny 1")
    for text in ("random weights", "auroc", "0.400 to 0.600", served.package.digest, "in units of the logit"):
        expect(page.locator("main")).to_contain_text(text)


# -- each page ----------------------------------------------------------------------------------------------------


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
    complaints = _complaints(context)
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
