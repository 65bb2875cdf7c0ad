"""The pages of a screened archive, and how tests open and read them."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import BrowserContext, Locator, Page, expect

from db.session import Database
from tests.awaiting import PATIENCE, await_that
from tests.bonescreen.page_server import page_server
from tests.bonescreen.screened_archive import SIDE
from xray.network.package import ModelPackage

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
    with page_server(home, BONESCREEN_MODEL=str(package.path), BONESCREEN_KEEP="accession") as server:
        yield f"http://127.0.0.1:{server.port}"


def complaints_of(context: BrowserContext) -> list[str]:
    """Collect what pages' scripts or the content security policy complain of."""
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


def open_study(page: Page, key: str, query: str = "", *, run: int = 1) -> None:
    page.goto(f"/runs/{run}{query}")
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
