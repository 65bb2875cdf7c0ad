"""Runs, the worklist and its keys, two runs beside each other, and a model's card, in a real browser."""

import re
from dataclasses import replace

from playwright.sync_api import Page, expect

from tests.bonescreen.browser.screened_pages import (
    Served,
    expect_study,
    keys,
    open_study,
)
from tests.bonescreen.screened_archive import (
    MARKUP,
    Shot,
    begin_run,
    finish,
    model_of,
    write_ramp,
)
from tests.seeding import found_files


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
