"""Pictures of images and their heat maps, as a running `bonescreen serve` sends them."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import update

from db.tables import images
from tests.awaiting import await_that
from tests.bonescreen.conftest import Bonescreen
from tests.bonescreen.page_server import Answer, PageServer, page_server
from tests.bonescreen.screened_archive import Shot, begin_run, finish, model_of
from tests.ledgers import embedded
from tests.worker.blocked_files import blocked
from xray.archives.archive_file import ArchiveFile, Placement
from xray.images.resize import resize
from xray.network.heatmap import MARGIN
from xray.network.package import ModelPackage
from xray.vocabulary import Label

FAILED, GONE, CHANGED, LINKED, OUTSIDE = (f"HAND/{name}/image.png" for name in (
    "failed", "gone", "changed", "linked", "outside",
))  # fmt: skip
TALL, WIDE, LARGE = "HAND/tall/image.png", "HAND/wide/image.png", "HAND/large/image.png"
SIZES = {TALL: (640, 500), WIDE: (420, 640), LARGE: (1000, 3000)}


@dataclass(frozen=True)
class Clinic:
    """A screened archive and the server of its pages; `numbers` are the images' ids by path."""

    server: PageServer
    home: Path
    root: Path
    package: ModelPackage
    numbers: dict[str, int]

    def ask(self, path: str, picture: str = "image.png", run: int = 1) -> Answer:
        return self.server.visitor().get(f"/api/v1/images/{run}/{self.numbers[path]}/{picture}")

    def picture(self, path: str, picture: str = "image.png") -> Image.Image:
        answer = self.ask(path, picture)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png"), answer.text
        assert answer.headers["Cache-Control"] == "no-store"
        return Image.open(BytesIO(answer.body))


def waves(height: int, width: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width]
    return (127 + 60 * np.sin(rows / 37) + 60 * np.cos(columns / 23)).astype(np.uint8)


def screen(home: Path, root: Path, package: ModelPackage, pictures: dict[str, NDArray[np.uint8]]) -> dict[str, int]:
    """Write an archive of pictures, and store what a worker would; return the images' ids."""
    found, shots = [], {}
    for path, gray in pictures.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gray).save(root / path, compress_level=1)
        placement = Placement(path.rpartition("/")[0], "HAND", Label.POSITIVE)
        found.append(ArchiveFile(path, (root / path).stat().st_size, 1_000, placement))
        shots[path] = Shot(None if path == FAILED else 0.9, None)
    database = embedded(home)
    model = model_of(package)
    begin_run(database, root, found, model)
    finish(database, model, root, {path: shot.first for path, shot in shots.items()}, shots)
    begin_run(database, root, found, replace(model, digest="ab" * 32, queue="screen.gone.fp32"))
    with database.read() as connection:
        numbers = {row.path: row.id for row in connection.execute(images.select())}
    database.close()
    return numbers


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory, tiny_package: ModelPackage) -> Iterator[Clinic]:
    """An archive with a file of each kind, screened, and then changed."""
    folder = tmp_path_factory.mktemp("pictures")
    home, root = folder / "home", folder / "clinic"
    sizes = SIZES | dict.fromkeys((FAILED, GONE, CHANGED, LINKED, OUTSIDE), (30, 20))
    shades = {path: np.full(size, 40 * number % 255, np.uint8) for number, (path, size) in enumerate(sizes.items())}
    numbers = screen(home, root, tiny_package, shades | {path: waves(*size) for path, size in SIZES.items()})
    (root / GONE).unlink()
    Image.fromarray(waves(30, 20)).save(root / CHANGED)
    for path in (LINKED, OUTSIDE):
        os.rename(root / path, folder / f"{path.split('/')[1]}.png")
    (root / LINKED).symlink_to(folder / "linked.png")
    database = embedded(home)
    with database.write() as connection:
        connection.execute(update(images).where(images.c.path == OUTSIDE).values(path="../outside.png"))
    database.close()
    with page_server(home, BONESCREEN_MODEL=str(tiny_package.path)) as server:
        yield Clinic(server, home, root, tiny_package, numbers)


def test_a_picture_has_the_gray_levels_that_were_screened(clinic: Clinic) -> None:
    picture = clinic.picture(TALL)
    assert picture.mode == "L"
    assert np.array_equal(np.asarray(picture), waves(*SIZES[TALL]))


def test_a_large_picture_is_reduced_unless_its_full_size_is_asked_for(clinic: Clinic) -> None:
    reduced = np.asarray(clinic.picture(LARGE))
    assert reduced.shape == (683, 2048)
    assert np.array_equal(reduced, resize(waves(*SIZES[LARGE]), 683, 2048))
    assert np.array_equal(np.asarray(clinic.picture(LARGE, "image.png?full=true")), waves(*SIZES[LARGE]))
    assert clinic.picture(LARGE, "heatmap.png").size == (2048, 683)
    assert clinic.picture(LARGE, "heatmap.png?full=true").size == (3000, 1000)


@pytest.mark.parametrize("path", [TALL, WIDE])
def test_a_heat_map_laid_over_its_picture_is_what_the_command_draws(
    bonescreen: Bonescreen, clinic: Clinic, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str
) -> None:
    monkeypatch.setenv("BONESCREEN_HOME", str(clinic.home))
    monkeypatch.setenv("BONESCREEN_MODEL", str(clinic.package.path))
    assert bonescreen("heatmap", path.rpartition("/")[0], "--run", 1, "-o", tmp_path).code == 0
    height, width = SIZES[path]
    left = 2 * MARGIN + width
    drawn = Image.open(tmp_path / f"{path}.heatmap.png").crop((left, MARGIN, left + width, MARGIN + height))
    laid = clinic.picture(path).convert("RGBA")
    laid.alpha_composite(clinic.picture(path, "heatmap.png").convert("RGBA"))
    difference = np.abs(np.asarray(drawn, int) - np.asarray(laid.convert("RGB"), int))
    assert difference.max() <= 3
    # It has colour, in the upper left only.
    saturation = np.ptp(np.asarray(drawn, int), axis=2)
    assert saturation[: height // 4, : width // 4].mean() > 50
    assert saturation[-height // 4 :].mean() < 5


def test_on_its_own_scale_a_heat_map_reaches_the_brightest_colour(clinic: Clinic) -> None:
    # 1.5 on the model's scale of 1 is bright far around; on the own scale only in the corner.
    card, own = (
        np.asarray(clinic.picture(TALL, f"heatmap.png?scale={scale}").convert("RGBA"))[..., 3]
        for scale in ("card", "own")
    )
    assert card.max() == own.max()
    assert (card == card.max()).sum() > 2 * (own == own.max()).sum()
    assert np.all(own <= card)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        (FAILED, 404, "the file ends before the image does"),
        (GONE, 404, "no longer in the archive"),
        (CHANGED, 409, "has changed since it was screened"),
        (LINKED, 404, "outside the archive"),
        (OUTSIDE, 404, "outside the archive"),
    ],
)
def test_a_file_that_is_not_as_it_was_screened_is_not_shown(clinic: Clinic, path: str, status: int, words: str) -> None:
    for picture in ("image.png", "heatmap.png"):
        answer = clinic.ask(path, picture)
        assert answer.status == status
        assert (words in answer.text) or (path == FAILED and picture == "heatmap.png")
        assert answer.headers["Content-Type"] == "application/json"


def test_an_image_of_another_run_and_a_model_that_is_not_here_are_not_found(clinic: Clinic) -> None:
    assert clinic.ask(TALL, run=2).status == 404
    assert "not screened yet" in clinic.ask(TALL, run=2).text
    assert clinic.ask(TALL, run=3).status == 404
    for path in ("1/0", "1/999999", "0/1", "1/-1", "99999999999999999999/1", "1/1.5", "1/1%00", "1/..%2f..%2f1"):
        assert clinic.server.visitor().get(f"/api/v1/images/{path}/image.png").status in (404, 422), path


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/api-docs/..%2f..%2fcore.py",
        "/api/v1/images/1/1/../../../../../../etc/passwd",
        "/api/v1/images/1/1/image.png/..%2f..%2f..%2fetc%2fpasswd",
    ],
)
def test_no_path_leads_to_another_file(clinic: Clinic, path: str) -> None:
    answer = clinic.server.visitor().get(path)
    assert answer.status == 404
    assert "root:" not in answer.text
    assert "import " not in answer.text


def test_an_archive_that_is_away_is_an_outage_and_what_needs_no_file_goes_on(clinic: Clinic) -> None:
    assert clinic.ask(WIDE, "heatmap.png").status == 200
    away = clinic.root.rename(clinic.root.with_name("away"))
    try:
        answer = clinic.ask(WIDE)
        assert answer.status == 503
        assert answer.headers["Retry-After"]
        assert "clinic" in answer.text
        assert clinic.ask(WIDE, "heatmap.png").status == 200
    finally:
        away.rename(clinic.root)
    assert clinic.ask(WIDE).status == 200


def test_a_file_whose_reading_never_ends_stops_neither_pages_nor_the_end_of_the_server(
    tmp_path: Path, tiny_package: ModelPackage
) -> None:
    home, root = tmp_path / "home", tmp_path / "clinic"
    numbers = screen(home, root, tiny_package, {TALL: waves(60, 50), WIDE: waves(50, 60)})
    with page_server(home, BONESCREEN_MODEL=str(tiny_package.path)) as server, ThreadPoolExecutor(20) as visitors:
        with blocked([root / TALL]):
            asked = [
                visitors.submit(server.visitor().get, f"/api/v1/images/1/{numbers[TALL]}/image.png") for _ in range(20)
            ]
            threads = psutil.Process(server.process.pid).num_threads
            await_that(lambda: threads() >= 3, 20, "both threads of pictures wait")
            for path in ("/healthz", "/runs/1", "/api/v1/runs/1/studies"):
                assert server.visitor().get(path).status == 200
        assert {answer.result().status for answer in asked} == {200}
        with blocked([root / WIDE]):
            lost = visitors.submit(_get_or_lose, server, f"/api/v1/images/1/{numbers[WIDE]}/image.png")
            await_that(lambda: _open_connections(server) > 0, 20, "it is asked for")
            assert server.end(signal.SIGTERM) == 0
            lost.result()


def _get_or_lose(server: PageServer, path: str) -> None:
    with suppress(OSError):
        server.visitor().get(path)


def _open_connections(server: PageServer) -> int:
    return sum(each.status == "ESTABLISHED" for each in psutil.Process(server.process.pid).net_connections())


def test_memory_is_bounded_however_many_pictures_are_asked_for_at_once(
    tmp_path: Path, tiny_package: ModelPackage
) -> None:
    home, root = tmp_path / "home", tmp_path / "clinic"
    noise = np.random.default_rng(0).integers(0, 256, (1600, 2000), np.uint8)
    numbers = screen(home, root, tiny_package, {LARGE: noise})
    path = f"/api/v1/images/1/{numbers[LARGE]}/image.png"
    with page_server(home, BONESCREEN_MODEL=str(tiny_package.path)) as server, ThreadPoolExecutor(40) as visitors:

        def ask(number: int) -> set[int]:
            asked = [visitors.submit(server.visitor().get, path) for _ in range(number)]
            return {each.result().status for each in asked}

        assert ask(4) == {200}
        before = _peak(server)
        assert ask(60) == {200}
        assert _peak(server) - before < 100_000_000


def _peak(server: PageServer) -> int:
    """The most memory that the server has held, bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def test_no_tensorflow_keras_or_openvino_is_loaded_to_draw_pictures(clinic: Clinic) -> None:
    clinic.picture(TALL)
    clinic.picture(TALL, "heatmap.png")
    loaded = Path(f"/proc/{clinic.server.process.pid}/maps").read_text().lower()
    assert "numpy" in loaded
    assert not [name for name in ("tensorflow", "openvino", "jaxlib") if name in loaded]
