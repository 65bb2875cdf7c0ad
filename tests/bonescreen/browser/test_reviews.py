"""Reviews in a real browser, as a person enters them."""

from dataclasses import replace

from playwright.sync_api import Browser, Page, expect

from db.reviews import reviews_of
from tests.bonescreen.browser.screened_pages import (
    DESKTOP,
    Served,
    complaints_of,
    expect_study,
    keys,
    open_study,
    study_id,
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
    complaints = complaints_of(context)
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
    open_study(page, MARKUP, run=2)
    reviewed = study_id(page)
    page.keyboard.press("d")
    expect(page.get_by_label("Your name")).to_be_focused()
    page.keyboard.type("Eve")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your name")).not_to_be_focused()
    page.keyboard.press("d")
    page.wait_for_url(lambda url: "stored=" in url or "last=" in url)
    assert [(each.decision, each.reviewer) for each in reviews_of(served.database, 2, reviewed)] == [
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
    open_study(page, "HAND/dark", "?text=HAND%2Fdark", run=2)
    page.get_by_label("Your name").fill("Ada")
    page.keyboard.press("Escape")
    page.locator("h1").click()
    page.keyboard.press("u")
    expect(page.get_by_role("status").filter(has_text="That was the last study of this list")).to_be_visible()
