"""A study's images in a real browser: heat map, zoom, window, and what stands beside them."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from tests.awaiting import await_that
from tests.bonescreen.browser.screened_pages import (
    DESKTOP,
    PHONE,
    Served,
    await_pictures,
    complaints_of,
    open_study,
    pixels,
    serve,
)
from tests.bonescreen.screened_archive import (
    Shot,
    begin_run,
    finish,
    model_of,
    screen,
    write_ramp,
)
from tests.seeding import found_files
from xray.network.package import load_package


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
        complaints = complaints_of(context)
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
    complaints = complaints_of(context)
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
