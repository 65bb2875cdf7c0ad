"""A whole training run: from images and initial weights to a model package that the worker's engine loads."""

import dataclasses
import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.training.conftest import write_mura
from tests.training.recipes import FROZEN_HEAD, SMALL, small_config
from training.config import TrainingConfig
from training.data.dataset import Role
from training.data.read_dataset import read_dataset
from training.data.split import read_split
from training.evaluate.held_out import ModelEvaluation
from training.evaluate.metrics import auroc
from training.evaluate.predictions import Predictions
from training.recipes import Stage
from training.train import train
from xray.errors import StorageOutage, TrainingFailure, UsageError
from xray.images.decode import decode
from xray.images.preprocessing import Preprocessing
from xray.network.open_engine import open_engine
from xray.network.package import ModelPackage, load_package

# Keras 3.15 saves weights through an interface that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

SHORT = dataclasses.replace(SMALL, stages=(Stage(0, 1, 1e-3),))


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A training run of the recipe `SHORT` that has finished, for several tests, which must not change it."""

    config: TrainingConfig
    package: ModelPackage
    evaluation: ModelEvaluation


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory, backbone_weights: Path) -> FinishedRun:
    folder = tmp_path_factory.mktemp("short")
    config = small_config(write_mura(folder), backbone_weights, folder / "out", SHORT)
    package, evaluation = train(config)
    assert evaluation is not None
    return FinishedRun(config, package, evaluation)


def stored_weights(package: Path) -> list[bytes]:
    with h5py.File(package / "weights.h5") as file:
        return [file[str(index)][...].tobytes() for index in range(len(file))]


def test_a_run_writes_a_package_that_the_worker_loads_with_a_complete_card(
    mura: Path, backbone_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    unlike = mura / "XR_HUMERUS" / "patient00001"
    trained, _ = train(dataclasses.replace(small_config(mura, backbone_weights, out), graph=True, unlike=(unlike,)))
    package = load_package(out / "small-1")
    card = package.card
    assert package.digest == trained.digest
    assert (card.finding, card.wording, card.body_parts) == ("abnormality", "positive: abnormal", ("HUMERUS",))
    assert [data.name for data in card.training_data] == ["MURA v1.1", "the weights file small.weights.h5"]
    assert str(tmp_path) not in card.to_json()
    split = read_split(package.path / "split.csv")
    held_out = Predictions.read(out / "predictions.csv")
    dataset = read_dataset(mura)
    assert set(held_out.groups.tolist()) == {group for group, role in split.roles.items() if role is Role.TEST}

    engine = open_engine(package, "openvino", tmp_path / "cache")
    assert not (tmp_path / "cache").exists(), "the package's own graph was not used"
    images = [dataset.root / image for image in held_out.images.tolist()]
    inputs = np.stack([Preprocessing(64, "squash").apply(decode(image.read_bytes())) for image in images])
    # The predictions are from cached float16 features.
    np.testing.assert_allclose(engine.infer(inputs).logits, held_out.logits, atol=0.05)
    distances = engine.infer(inputs).distances
    assert distances is not None
    assert card.distance is not None
    shares = {share.population: share.value for share in card.distance.shares}
    alarms = f"MURA v1.1, images (n={len(images)}), test part: false alarms"
    assert shares[alarms] == round(float((distances > card.distance.threshold).mean()), 4)
    assert {"pictures in patient00001 (n=2)", "drawn pictures, noise (n=20)"} < shares.keys()
    readme = (package.path / "README.md").read_text()
    assert f"| {alarms} | {100 * shares[alarms]:.1f} % |" in readme
    printed = capsys.readouterr().out
    line = "stage 2 = train the top 12 backbone layers and the head, 3 epochs, initial learning rate 0.001"
    assert line in printed.splitlines(), "the recipe is printed a setting a line"
    assert "stage 2/2, epoch 1/3: loss" in printed


def test_a_finished_run_returns_its_package_and_another_runs_package_is_refused(
    short_run: FinishedRun, tmp_path: Path
) -> None:
    shutil.copytree(short_run.config.out, tmp_path / "out")
    config = dataclasses.replace(short_run.config, out=tmp_path / "out")
    trained = load_package(config.package_path)
    files = {path: path.stat().st_mtime_ns for path in trained.path.iterdir()}
    again, evaluation = train(config)
    assert (again.digest, evaluation) == (trained.digest, None)
    assert {path: path.stat().st_mtime_ns for path in trained.path.iterdir()} == files

    with pytest.raises(
        UsageError, match=r"was made by a different command \(bonescreen train small\): choose a different --out"
    ):
        train(dataclasses.replace(config, command="bonescreen train small --seed 7"))
    for other in (
        dataclasses.replace(config, recipe=dataclasses.replace(SHORT, seed=7)),
        dataclasses.replace(config, dataset=config.dataset.select(config.dataset.groups != "patient00000")),
    ):
        with pytest.raises(
            UsageError, match=r"exists and was made with a different recipe, data, .* choose a different --out"
        ):
            train(other)
    (tmp_path / "out/small-1.run/checkpoint.npz").unlink()
    with pytest.raises(UsageError, match=r"the checkpoint of its run is missing .* choose a different --out"):
        train(config)


def test_metrics_on_the_card_have_four_decimals_and_thresholds_are_exact(short_run: FinishedRun) -> None:
    evaluation, card = short_run.evaluation, short_run.package.card
    assert (card.image_threshold, card.study_threshold) == (evaluation.image_threshold, evaluation.study_threshold)
    assert card.calibration == evaluation.calibration
    for rounded, exact in zip(card.metrics, evaluation.metrics, strict=True):
        assert rounded.value == round(exact.value, 4)


def test_cross_validation_predicts_every_image_out_of_fold_and_then_trains_on_all(
    fracatlas: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    # The whole image of those of a hand, which no map can miss, and the bright half of the others.
    marks = [
        {"image": f"IMG{number:04}.png", "box": [0, 0, 70, 90 if number % 2 else 45], "polygons": []}
        for number in range(0, 60, 3)
    ]
    (fracatlas / "fractures.json").write_text(json.dumps(marks))
    recipe = dataclasses.replace(SMALL, folds=2, patience=0, average=2, stages=(Stage(0, 8, 3e-3), Stage(6, 3, 1e-3)))
    package, evaluation = train(small_config(fracatlas, backbone_weights, tmp_path / "out", recipe))
    predictions = Predictions.read(tmp_path / "out" / "predictions.csv")
    assert len(predictions) == 59
    assert evaluation
    assert evaluation.warnings == (), "20 positive images in 12 groups are enough to choose on"
    assert "split.csv" not in package.card.files
    assert "truncated 1" in " ".join(package.card.limits)
    assert auroc(predictions.labels, predictions.probabilities) > 0.9, "bright halves are easy to classify"
    assert package.card.metrics
    assert all(metric.population.endswith("out of fold") for metric in package.card.metrics)
    assert package.card.distance is not None
    alarms = package.card.distance.shares[0]
    assert (alarms.population, alarms.value) == ("FracAtlas, images (n=59), out of fold: false alarms", 0.0)

    assert evaluation is not None
    everyone, upper_limb = evaluation.pointing
    assert (everyone.n, everyone.groups, upper_limb.n) == (20, 12, 10)
    assert (upper_limb.game.value, upper_limb.mass.value) == (1, pytest.approx(1))
    assert everyone.game_by_chance == pytest.approx((1 + 1 / 2 + 1 / 14) / 2, abs=0.01)
    assert everyone.game.value >= 0.5
    population = "FracAtlas, positive images with marked findings (n=20), out of fold"
    on_card = {metric.name: metric.value for metric in package.card.metrics if metric.population == population}
    assert on_card["pointing game"] == round(everyone.game.value, 4)
    assert on_card["map mass inside findings"] == round(everyone.mass.value, 4)
    assert f"| pointing game | {everyone.game.value:.3f} |" in (package.path / "README.md").read_text()
    share = f"In {100 * everyone.game.value:.0f} % of the positive images with a marked finding, out of fold, its"
    assert any(share in limit for limit in package.card.limits)
    page = (tmp_path / "out" / "maps.html").read_text()
    assert page.count("<figure>") == 20
    assert "were not trained on these images: out of fold" in page

    (fracatlas / "fractures.json").write_text(json.dumps(marks[:-1]))
    with pytest.raises(UsageError, match="was made with a different recipe, data"):
        train(small_config(fracatlas, backbone_weights, tmp_path / "out", recipe))


def test_a_network_can_be_trained_with_new_augmentation_in_each_epoch(
    mura: Path, backbone_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(small_config(mura, backbone_weights, tmp_path / "out", FROZEN_HEAD.changed(views=0)))
    assert "stage 2/2, epoch 3/3" in capsys.readouterr().out
    predictions = Predictions.read(tmp_path / "out" / "predictions.csv")
    assert auroc(predictions.labels, predictions.probabilities) > 0.9, "bright halves are easy to classify"


@pytest.mark.parametrize(
    ("recipe", "kills"),
    [
        ("small", ("stage 1/2, epoch 2/4", "stage 2/2, epoch 1/3")),
        # Between the two epochs whose weights it averages.
        ("frozen-head", ("stage 2/2, epoch 2/3",)),
    ],
)
def test_a_killed_run_continues_and_ends_with_the_weights_of_an_uninterrupted_run_to_the_bit(
    recipe: str, kills: tuple[str, ...], mura: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.training.recipes", recipe, str(mura), str(backbone_weights)]
    uninterrupted = subprocess.run(
        [*command, str(tmp_path / "uninterrupted")], capture_output=True, text=True, check=False
    )
    assert uninterrupted.returncode == 0, uninterrupted.stderr
    for kill_after in kills:
        with subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout
            assert any(kill_after in line for line in run.stdout), "the run ended before it could be killed"
            run.send_signal(signal.SIGKILL)
    resumed = subprocess.run([*command, str(tmp_path / "killed")], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "continuing after stage" in resumed.stdout
    assert stored_weights(tmp_path / f"uninterrupted/{recipe}-1") == stored_weights(tmp_path / f"killed/{recipe}-1")
    assert "stage 1/2, epoch 1/4" in uninterrupted.stdout
    assert "stage 1/2, epoch 1/4" not in resumed.stdout


def test_a_loss_that_is_not_a_number_ends_the_run_at_once_with_advice_and_no_other_run_continues_it(
    mura: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(SMALL, patience=0, stages=(Stage(0, 1, 1e-3), Stage(0, 40, 1e30)))
    with pytest.raises(TrainingFailure, match=r"is not a number in stage 2, epoch \d+: check the images with"):
        train(small_config(mura, backbone_weights, tmp_path / "out", recipe))
    with pytest.raises(UsageError, match=r"belongs to a run with a different recipe, data, weights"):
        train(small_config(mura, backbone_weights, tmp_path / "out", dataclasses.replace(recipe, batch_size=4)))
    next((tmp_path / "out").rglob("checkpoint.npz")).write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UsageError, match=r"checkpoint\.npz is damaged .* delete it"):
        train(small_config(mura, backbone_weights, tmp_path / "out", recipe))


def test_a_full_disk_is_reported_and_the_same_run_continues_later(
    mura: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    out, limits = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
        with pytest.raises(StorageOutage, match=r"cannot be written|are needed .*free some"):
            train(small_config(mura, backbone_weights, out, SHORT))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    train(small_config(mura, backbone_weights, out, SHORT))


def test_two_runs_cannot_use_one_folder(mura: Path, backbone_weights: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "out").mkdir()
    with (tmp_path / "out/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another training run is using"):
            train(small_config(mura, backbone_weights, tmp_path / "out"))


def test_weights_of_another_network_and_images_of_one_class_are_refused_before_training(
    mura: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cannot build DenseNet121"):
        train(small_config(mura, backbone_weights, tmp_path / "a", dataclasses.replace(SHORT, backbone="DenseNet121")))
    for study in (mura / "XR_HUMERUS").glob("*/*_positive"):
        study.rename(study.with_name("study1_negative"))
    with pytest.raises(UsageError, match=r"the data has one class only: negative \(48 images\)"):
        train(small_config(mura, backbone_weights, tmp_path / "b", SHORT))


def test_initial_weights_can_be_a_packages_unless_it_was_trained_on_held_out_images(
    short_run: FinishedRun, tmp_path: Path
) -> None:
    first = short_run.package
    other_split = dataclasses.replace(
        short_run.config,
        out=tmp_path / "second",
        recipe=dataclasses.replace(SHORT, seed=7),
        initial_weights=first,
    )
    with pytest.raises(UsageError, match=r"cannot be used.* The model was trained on \d+ of these"):
        train(other_split)
    second, _ = train(dataclasses.replace(other_split, split=read_split(first.path / "split.csv")))
    roles = [data.role for data in second.card.training_data]
    assert "initial weights of the backbone, from the package small 1" in roles[1]
    another = dataclasses.replace(
        other_split, out=tmp_path / "third", recipe=dataclasses.replace(SHORT, backbone="MobileNetV2")
    )
    with pytest.raises(UsageError, match="has the backbone MobileNet, the recipe MobileNetV2"):
        train(another)
