"""The Python API: the numbers of `bonescreen screen`, from Python."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pandas import DataFrame
from PIL import Image

import bonescreen as api
from db.queries import ResultFilter, find_study, results
from db.session import Database
from tests.archives import cut, flat_tree, jpeg, png
from tests.bonescreen.processes import run
from xray.errors import FileFault, PackageError, UsageError
from xray.network.package import ModelPackage
from xray.vocabulary import Reason


@pytest.fixture
def screened(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, Database]]:
    """Screen an archive of four images and a damaged one; gives its root and the database."""
    root = tmp_path / "archive"
    flat_tree(root, 4)
    (root / "cut.jpg").write_bytes(cut(jpeg(9)))
    assert run(environ, "screen", root).returncode == 0
    monkeypatch.setenv("BONESCREEN_HOME", environ["BONESCREEN_HOME"])
    with closing(Database(f"sqlite:///{environ['BONESCREEN_HOME']}/bonescreen.db")) as database:
        yield root, database


def test_predictions_equal_those_of_screening_to_the_bit(
    screened: tuple[Path, Database], tiny_package: ModelPackage
) -> None:
    root, database = screened
    stored = {
        image.image: image
        for row in results(database, ResultFilter())
        for study in find_study(database, row.study)
        for image in study.images
        if image.probability is not None
    }

    predictions = api.load_model(tiny_package.path).predict([root / name for name in stored])

    assert len(predictions) == 4
    for prediction, image in zip(predictions, stored.values(), strict=True):
        assert (prediction.logit, prediction.probability) == (image.logit, image.probability)
        assert prediction.label == image.label
        assert prediction.cam.astype("<f2").tobytes() == image.cam


def test_a_file_its_pixels_and_a_list_of_both_give_the_same_prediction(
    tmp_path: Path, tiny_package: ModelPackage
) -> None:
    file = tmp_path / "hand.png"
    file.write_bytes(png(3))
    model = api.load_model(tiny_package.path)

    by_name, by_path, by_pixels = model.predict([str(file), file, api.load_image(file)])

    assert by_name.logit == by_path.logit == by_pixels.logit == model.predict(file).logit
    assert 0 <= by_name.probability <= 1
    assert model.predict([]) == []


def test_a_long_list_keeps_its_order(tiny_package: ModelPackage) -> None:
    images = [np.full((8, 8), value, np.uint8) for value in range(70)]
    model = api.load_model(tiny_package.path)
    assert [p.logit for p in model.predict(images)] == [model.predict(image).logit for image in images]


def test_a_heat_map_is_a_picture_of_the_image_beside_its_map(tmp_path: Path, tiny_package: ModelPackage) -> None:
    file = tmp_path / "hand.png"
    file.write_bytes(png(3))
    drawn = api.load_model(tiny_package.path).predict(file).heat_map()
    assert isinstance(drawn, Image.Image)
    assert drawn.mode == "RGB"
    assert drawn.width > 2 * 500


def test_an_image_is_loaded_as_gray_and_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.png", tmp_path / "bad.jpg"
    good.write_bytes(png(1))
    bad.write_bytes(cut(jpeg(2)))

    gray = api.load_image(good)

    assert (gray.dtype, gray.shape) == (np.uint8, (24, 20))
    with pytest.raises(FileFault) as damaged:
        api.load_image(bad)
    assert damaged.value.reason is Reason.TRUNCATED
    assert damaged.value.__notes__ == [f"{bad}: the file ends before the image does"]
    with pytest.raises(FileFault, match="vanished"):
        api.load_image(tmp_path / "missing.png")


def test_results_are_those_of_the_command_as_a_list_or_a_data_frame(screened: tuple[Path, Database]) -> None:
    _, database = screened
    listed = api.results()
    frame = api.results(as_frame=True)

    assert listed == list(results(database, ResultFilter()))
    assert isinstance(frame, DataFrame)
    assert frame["study"].tolist() == [row.study for row in listed]
    assert len(api.results(limit=2)) == 2
    assert [row.study for row in api.results(threshold=0.0, flagged=True)] == [
        r.study for r in listed if r.score is not None
    ]


def test_wrong_arguments_are_refused_with_a_way_out(home: Path, tiny_package: ModelPackage, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run: bonescreen screen"):
        api.results()
    with pytest.raises(PackageError, match="installed: "):
        api.load_model("no-such-model")
    with pytest.raises(UsageError, match=r"uint8 \(H, W\), .* not float64 \(4, 4\)"):
        api.load_model(tiny_package.path).predict(np.zeros((4, 4)))
    with pytest.raises(UsageError, match="neither positive nor negative"):
        api.results(label="fracture")


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "numpy keras tensorflow openvino sqlalchemy celery typer PIL"
    check = f"import sys, bonescreen; sys.exit(' '.join(m for m in '{heavy}'.split() if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(api.__all__) <= set(dir(api))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = api.nonsense
