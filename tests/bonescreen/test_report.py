"""`bonescreen report`: one file that shows a run, in which a colleague ticks what comes back as reviews."""

import json
import re
import stat
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from bonescreen.report.performance import measure_performance
from db.reviews import Review, stream_reviews
from db.run_queries import run_summary
from tests.awaiting import PATIENCE
from tests.bonescreen.conftest import Bonescreen, Done
from tests.ledgers import embedded, screened
from tests.pictured import pictured
from xray.network.heatmap import DARK, DARK_NOTE
from xray.network.package import ModelPackage, load_package
from xray.vocabulary import REASON_REMEDY, REASON_TEXT, RESEARCH_NOTICE, Reason

HIGH, MIDDLE, LOW = "XR_HAND/patient1/study1_positive", "XR_HAND/patient2/study1_negative", "XR_HAND/patient3/study1"
BROKEN = "XR_HAND/patient4/study1_positive"
STUDIES = {LOW: [0.1], MIDDLE: [0.6], HIGH: [0.9, 0.8], BROKEN: [None]}


@pytest.fixture
def root(tmp_path: Path, home: Path, tiny_package: ModelPackage, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BONESCREEN_MODEL", str(tiny_package.path))
    pictured(home, tmp_path / "clinic", tiny_package, STUDIES)
    return tmp_path / "clinic"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Debian's own, whose sandbox does not start as root.
        launched = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page without a network; whatever its script or its security policy complains of fails the test."""
    context = browser.new_context(offline=True, accept_downloads=True)
    context.set_default_timeout(10_000 * PATIENCE)
    complaints: list[str] = []
    opened = context.new_page()
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    yield opened
    context.close()
    assert complaints == []


def _write(bonescreen: Bonescreen, folder: Path, *options: object) -> tuple[str, Done]:
    done = bonescreen("report", 1, "-o", folder / "report.html", *options)
    assert done.code in (0, 1), done.err
    return (folder / "report.html").read_text(), done


def _studies(html: str) -> list[str]:
    return [json.loads(facts)["study"] for facts in re.findall(r"data-facts='([^']*)'", html)]


def _stored(home: Path) -> list[Review]:
    database = embedded(home)
    with closing(stream_reviews(database, 1)) as reviews:
        found = list(reviews)
    database.close()
    return found


def test_a_report_shows_the_run_its_studies_its_failures_and_its_model(
    bonescreen: Bonescreen, root: Path, tmp_path: Path
) -> None:
    html, done = _write(bonescreen, tmp_path)
    assert (done.code, done.out) == (0, f"{tmp_path / 'report.html'}\n")
    assert _studies(html) == [HIGH, MIDDLE, LOW, BROKEN]
    # Two images and their heat maps, one and its heat map twice.
    assert html.count("data:image/jpeg;base64,") == 8
    assert html.count("positive: fracture</span>, score 0.850") == 1
    assert f"{REASON_TEXT[Reason.EMPTY]}</td>" in html
    assert REASON_REMEDY[Reason.EMPTY].split(",")[0] in html
    assert "Model: tiny 1" in html
    assert "a class activation of" in html
    assert "study threshold 0.500" in html


def test_the_notice_is_on_top_and_at_each_study(bonescreen: Bonescreen, root: Path, tmp_path: Path) -> None:
    html, done = _write(bonescreen, tmp_path)
    articles = re.findall(r"<article.*?</article>", html, re.DOTALL)
    assert [article.count(RESEARCH_NOTICE) for article in articles] == [1] * 4
    assert RESEARCH_NOTICE in html.partition("<main>")[0]
    assert RESEARCH_NOTICE in done.err


def test_only_flagged_studies_are_shown_if_asked_for_and_no_more_than_the_limit(
    bonescreen: Bonescreen, root: Path, tmp_path: Path
) -> None:
    html, _ = _write(bonescreen, tmp_path, "--flagged")
    assert _studies(html) == [HIGH, MIDDLE]
    assert "All 2 studies, the highest score first" in html
    html, _ = _write(bonescreen, tmp_path, "--flagged", "--limit", 1)
    assert _studies(html) == [HIGH]
    assert "The 1 study with the highest scores, of 2. The others are not in this file (--limit 1)." in html


def test_only_its_owner_may_read_a_report_and_it_names_no_folder_of_this_machine(
    bonescreen: Bonescreen, root: Path, home: Path, tmp_path: Path
) -> None:
    html, _ = _write(bonescreen, tmp_path)
    assert stat.S_IMODE((tmp_path / "report.html").stat().st_mode) == 0o600
    assert str(tmp_path) not in html


def test_what_cannot_be_drawn_says_why_and_the_exit_code_is_one(
    bonescreen: Bonescreen, root: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / MIDDLE / "image1.png")
    html, done = _write(bonescreen, tmp_path)
    assert done.code == 1
    assert "Some images could not be drawn" in done.err
    assert "No picture: the file has changed since it was screened." in html
    assert html.count("data:image/jpeg;base64,") == 6


def test_a_report_is_written_although_the_archive_is_away(bonescreen: Bonescreen, root: Path, tmp_path: Path) -> None:
    root.rename(tmp_path / "elsewhere")
    html, done = _write(bonescreen, tmp_path)
    assert done.code == 1
    assert html.count("No pictures: ") == 4
    assert _studies(html) == [HIGH, MIDDLE, LOW, BROKEN]


def test_without_the_model_package_images_are_shown_alone(
    bonescreen: Bonescreen, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONESCREEN_MODEL", "fracture-5")
    html, done = _write(bonescreen, tmp_path)
    assert done.code == 0
    assert html.count("data:image/jpeg;base64,") == 4
    assert "there are no heat maps and no model card" in html


def test_a_positive_image_with_a_dark_map_is_shown_on_its_own_scale_too_which_is_marked(
    bonescreen: Bonescreen, home: Path, tmp_path: Path, tiny_package: ModelPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONESCREEN_MODEL", str(tiny_package.path))
    highest = 0.5 * DARK * load_package(str(tiny_package.path)).card.heat_map_scale
    pictured(home, tmp_path / "clinic", tiny_package, {HIGH: [0.9], LOW: [0.1]}, cam=((highest, 0.0), (0.0, 0.0)))
    html, _ = _write(bonescreen, tmp_path)
    assert html.count("data:image/jpeg;base64,") == 5
    assert html.count('<span class="mark">own scale</span>') == 1
    assert html.count(DARK_NOTE.replace("'", "&#39;")) == 1


def test_results_are_measured_against_human_labels_with_intervals_of_patients(
    bonescreen: Bonescreen, home: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    studies = {}
    for number in range(60):
        label = "positive" if number % 2 else "negative"
        score = float(np.clip(rng.normal(0.6 if number % 2 else 0.4, 0.2), 0, 1))
        studies[f"XR_{'HAND' if number < 40 else 'HUMERUS'}/patient{number}/study1_{label}"] = [score]
    screened(home, studies)
    html, _ = _write(bonescreen, tmp_path, "--limit", 1)
    rows = re.findall(r'<tr><th scope="row">(\w+)</th><td>(\d+)</td><td>(\d+)</td>\s*<td>([\d.]+)<span', html)
    assert [row[:3] for row in rows] == [("all", "60", "30"), ("HAND", "40", "20"), ("HUMERUS", "20", "10")]
    scores = np.array([score for (score,) in studies.values()])
    positive = np.arange(60) % 2 == 1
    auroc = np.mean(scores[positive][:, None] > scores[~positive][None])
    assert float(rows[0][3]) == pytest.approx(auroc, abs=0.0005)
    assert re.search(r'<span class="interval">0\.\d{3} to [01]\.\d{3}</span>', html)
    assert "resamples of whole studies, as no patient is known" in html


def test_one_long_name_takes_no_memory_for_every_labelled_study(home: Path) -> None:
    studies = {f"XR_HAND/patient{n}/study1_{'positive' if n % 2 else 'negative'}": [n / 200] for n in range(200)}
    run = screened(home, {**studies, f"XR_HAND/{'x' * 30_000}_positive": [0.9]})
    database = embedded(home)
    # What is loaded once does not count.
    measure_performance(database, run_summary(database, run))
    tracemalloc.start()
    measured = measure_performance(database, run_summary(database, run))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    database.close()
    assert measured is not None
    assert (measured.everyone.n, measured.everyone.groups) == (201, 201)
    assert peak < 20_000_000


def test_few_labelled_studies_have_no_interval_and_none_have_no_section(
    bonescreen: Bonescreen, home: Path, root: Path, tmp_path: Path
) -> None:
    html, _ = _write(bonescreen, tmp_path)
    assert "positives are in 1 group and negatives in 1, and 5 of each are needed" in html
    assert "1 labelled study without a complete result is not in these numbers" in html


def test_names_are_shown_as_they_are_and_run_no_script(
    bonescreen: Bonescreen, home: Path, tmp_path: Path, tiny_package: ModelPackage, page: Page
) -> None:
    hostile = "XR_HAND/<img src=x onerror=alert(1)>'\"&amp;{{ 7*7 }}\x1b/study1_positive"
    pictured(home, tmp_path / "clinic", tiny_package, {hostile: [0.9]})
    html, _ = _write(bonescreen, tmp_path)
    assert "<img src=x" not in html
    page.goto((tmp_path / "report.html").as_uri())
    assert hostile.replace("\x1b", "\\x1b") in page.locator("article h3").inner_text()


def test_a_colleague_ticks_offline_and_saves_what_is_then_stored(
    bonescreen: Bonescreen, home: Path, root: Path, tmp_path: Path, page: Page
) -> None:
    _write(bonescreen, tmp_path)
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    assert page.get_by_role("button", name="Save as CSV").is_disabled()
    studies = page.locator("article")
    studies.nth(0).get_by_label("Disagree").check()
    studies.nth(0).get_by_label("Note").fill('=old "fracture",\nhealed')
    studies.nth(1).get_by_label("Agree", exact=True).check()
    studies.nth(2).get_by_label("Unsure").check()
    studies.nth(2).get_by_role("button", name="Clear").click()
    studies.nth(3).get_by_label("Unsure").check()
    assert page.locator("#said").inner_text() == "3 of 4 decided, not saved yet"
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save as CSV").click()
    assert saving.value.suggested_filename == "reviews-run1.csv"
    saving.value.save_as(tmp_path / "reviews.csv")
    assert "saved as reviews-run1.csv" in page.locator("#said").inner_text()
    # A picture within the file is no request to anybody else.
    assert {url.split(":")[0] for url in requested} <= {"file", "data", "blob"}
    assert (tmp_path / "reviews.csv").read_text("utf-8").count("'=old") == 1

    done = bonescreen("review", "import", tmp_path / "reviews.csv", "--reviewer", "Grace")
    assert (done.code, done.out) == (0, "Stored 3 reviews by Grace in run 1: 1 agree, 1 disagree, 1 unsure\n")
    stored = {review.study: review for review in _stored(home)}
    assert stored.keys() == {HIGH, MIDDLE, BROKEN}
    of = stored[HIGH]
    assert (of.decision, of.note, of.label) == ("disagree", '=old "fracture",\nhealed', "positive")
    assert of.score == pytest.approx(0.85, abs=1e-12)
    assert (stored[BROKEN].decision, stored[BROKEN].score, stored[BROKEN].status) == ("unsure", None, "not assessable")
    again = bonescreen("review", "import", tmp_path / "reviews.csv", "--reviewer", "Grace")
    assert again.out.startswith("Nothing to store")
    assert "Reviews so far: 3 reviews of 3 studies: 1 agree, 1 disagree, 1 unsure." in _write(bonescreen, tmp_path)[0]


def test_a_note_without_a_decision_is_said_not_to_be_saved(
    bonescreen: Bonescreen, root: Path, tmp_path: Path, page: Page
) -> None:
    _write(bonescreen, tmp_path)
    page.goto((tmp_path / "report.html").as_uri())
    page.locator("article").nth(0).get_by_label("Note").fill("cast")
    assert "a note without a decision is not saved (1)" in page.locator("#said").inner_text()


@pytest.mark.parametrize(("width", "height", "scheme"), [(1200, 900, "light"), (390, 800, "dark")])
def test_a_report_is_accessible_and_fits_each_screen(
    bonescreen: Bonescreen, root: Path, tmp_path: Path, browser: Browser, width: int, height: int, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    _write(bonescreen, tmp_path)
    # The policy of the page lets no other script in, the checker's neither.
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=True)  # type: ignore[arg-type]
    opened = context.new_page()
    opened.goto((tmp_path / "report.html").as_uri())
    found = Axe().run(opened).response["violations"]
    assert [(each["id"], each["impact"], len(each["nodes"])) for each in found] == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_a_run_that_goes_on_is_said_to(bonescreen: Bonescreen, home: Path, tmp_path: Path) -> None:
    screened(home, {"read": [0.5], "waiting": [None]})
    assert "The run is not finished (running, 50 % processed)" in _write(bonescreen, tmp_path)[0]


def test_a_cancelled_run_is_said_not_to_be_finished(bonescreen: Bonescreen, home: Path, tmp_path: Path) -> None:
    screened(home, {"read": [0.5], "waiting": [None]})
    assert bonescreen("cancel", 1).code == 0
    assert "The run is not finished (cancelled, 50 % processed)" in _write(bonescreen, tmp_path)[0]


def test_a_study_that_is_not_screened_yet_has_no_result_to_review(
    bonescreen: Bonescreen, home: Path, tmp_path: Path, page: Page
) -> None:
    screened(home, {"XR_HAND/read": [0.5], "XR_HAND/waiting": [None], "XR_HAND/half": [0.1, None]})
    html = _write(bonescreen, tmp_path)[0]
    assert html.count("so there is no result to review") == 2
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("article").count() == 3
    # An import takes no review of a study that is not screened, and then none of the file's.
    for each in page.get_by_label("Agree", exact=True).all():
        each.check()
    assert page.locator("#said").inner_text() == "1 of 1 decided, not saved yet"
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save as CSV").click()
    saving.value.save_as(tmp_path / "reviews.csv")
    done = bonescreen("review", "import", tmp_path / "reviews.csv", "--reviewer", "Grace")
    assert (done.code, done.out) == (0, "Stored 1 review by Grace in run 1: 1 agree\n")


def test_a_report_needs_a_run_and_a_file(bonescreen: Bonescreen, root: Path, tmp_path: Path) -> None:
    done = bonescreen("report", 7, "-o", tmp_path / "r.html")
    assert (done.code, "there is no run 7" in done.err) == (2, True)
    assert bonescreen("report", 1).code == 2
    assert bonescreen("report", 1, "-o", tmp_path / "no" / "r.html").code == 2
    assert list(tmp_path.glob("*.html")) == []
