"""The whole path: films and first weights in, a model package out that the worker's engine loads."""

import dataclasses
import resource
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.training.conftest import SIZE
from tests.training.recipes import HELD, SMALL, order
from training.data.dataset import Role
from training.data.images import load_images
from training.data.read_dataset import read_dataset
from training.data.split import read_split
from training.evaluate.metrics import auroc
from training.evaluate.predictions import Predictions
from training.fit.inputs import TrainingInputs
from training.fit.learner import Learner
from training.progress import Progress
from training.recipes import Stage
from training.train import train
from xray.errors import StorageOutage, TrainingFailure, UsageError
from xray.images.decode import decode
from xray.images.preprocessing import Preprocessing
from xray.network.open_engine import open_engine
from xray.network.package import load_package

# Keras 3.15 saves weights through an interface that NumPy 2 wants changed.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

SHORT = dataclasses.replace(SMALL, stages=(Stage(0, 1, 1e-3),))


def stored_weights(package: Path) -> list[bytes]:
    with h5py.File(package / "weights.h5") as file:
        return [file[str(index)][...].tobytes() for index in range(len(file))]


def test_a_package_comes_out_that_the_worker_loads_and_that_says_what_it_is(
    mura: Path, backbone_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    made, _ = train(dataclasses.replace(order(mura, backbone_weights, out), graph=True))
    package = load_package(out / "small-1")
    card = package.card
    assert package.digest == made.digest
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
    films = np.stack([Preprocessing(64, "squash").apply(decode(image.read_bytes())) for image in images])
    # predictions were made of features kept as float16
    np.testing.assert_allclose(engine.infer(films).logits, held_out.logits, atol=0.05)
    printed = capsys.readouterr().out
    assert "stage 2 = the last 12 layers and the head, 3 epochs from a learning rate of 0.001" in printed
    assert "stage 2/2, epoch 1/3: loss" in printed

    with pytest.raises(UsageError, match="never changed"):
        train(order(mura, backbone_weights, out))


def test_cross_validation_measures_every_film_out_of_fold_and_learns_from_all(
    fracatlas: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(SMALL, folds=3, patience=0, average=2, stages=(Stage(0, 8, 3e-3), Stage(6, 3, 1e-3)))
    package, _ = train(order(fracatlas, backbone_weights, tmp_path / "out", recipe))
    predictions = Predictions.read(tmp_path / "out" / "predictions.csv")
    assert len(predictions) == 59
    assert "split.csv" not in package.card.files
    assert "truncated 1" in " ".join(package.card.limits)
    assert auroc(predictions.labels, predictions.probabilities) > 0.9, "bright halves are easily told"
    assert package.card.metrics
    assert all(metric.population.endswith("out of fold") for metric in package.card.metrics)


def test_a_network_learns_from_films_that_are_new_in_each_epoch(
    mura: Path, backbone_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(order(mura, backbone_weights, tmp_path / "out", HELD.changed(views=0)))
    assert "stage 2/2, epoch 3/3" in capsys.readouterr().out
    predictions = Predictions.read(tmp_path / "out" / "predictions.csv")
    assert auroc(predictions.labels, predictions.probabilities) > 0.9, "bright halves are easily told"


def test_an_epoch_has_all_positive_films_and_the_next_of_the_others_until_each_was_seen(
    fracatlas: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(SMALL, stages=(Stage(0, 1, 1e-3), Stage(6, 4, 1e-3, negatives=0.5)))
    dataset = read_dataset(fracatlas)
    dataset, images, _ = load_images(dataset, Preprocessing(SIZE, "squash"), tmp_path)
    material = TrainingInputs(dataset, images, Learner(recipe, backbone_weights), tmp_path, Progress())
    films = np.flatnonzero(np.arange(len(dataset)) % 4 > 0)
    positive, others = (set(films[dataset.labels[films] == label].tolist()) for label in (True, False))
    np.testing.assert_array_equal(material.chosen(films, 0, 0), films)
    # A head that learns alone is given films as they are, in every epoch; released layers one view, then the other.
    np.testing.assert_array_equal(material.inputs(0, films, 0, 1), material.pooled[films])
    assert (material.inputs(6, films, 1, 0) != material.inputs(6, films, 1, 1)).any(axis=(1, 2, 3)).all()
    seen: Counter[int] = Counter()
    for epoch in range(len(others)):
        chosen = material.chosen(films, 1, epoch)
        assert len(chosen) == len(positive) + round(len(positive) / 2)
        assert positive < set(chosen.tolist()) <= positive | others
        seen.update(chosen.tolist())
    assert len({seen[film] for film in others}) == 1, "some negative films are seen more often than others"
    batches = material.epoch(6, films, 1, 0)
    assert len(batches) == -(-len(material.chosen(films, 1, 0)) // recipe.batch_size)


@pytest.mark.parametrize("recipe", ["small", "held"])
def test_a_killed_run_goes_on_and_ends_with_the_same_weights_to_the_bit_as_an_unbroken_one(
    recipe: str, mura: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.training.recipes", recipe, str(mura), str(backbone_weights)]
    unbroken = subprocess.run([*command, str(tmp_path / "unbroken")], capture_output=True, text=True, check=False)
    assert unbroken.returncode == 0, unbroken.stderr
    for kill_after in ("stage 1/2, epoch 2/4", "stage 2/2, epoch 1/3"):
        with subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout
            assert any(kill_after in line for line in run.stdout), "it ended before it could be killed"
            run.send_signal(signal.SIGKILL)
    resumed = subprocess.run([*command, str(tmp_path / "killed")], capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on after stage" in resumed.stdout
    assert stored_weights(tmp_path / f"unbroken/{recipe}-1") == stored_weights(tmp_path / f"killed/{recipe}-1")
    assert "stage 1/2, epoch 1/4" in unbroken.stdout
    assert "stage 1/2, epoch 1/4" not in resumed.stdout


def test_a_loss_that_is_no_number_ends_the_run_at_once_and_says_what_to_do(
    mura: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    recipe = dataclasses.replace(SMALL, patience=0, stages=(Stage(0, 50, 1e30),))
    with pytest.raises(TrainingFailure, match=r"no longer a number in stage 1, epoch \d+: look for faulty films"):
        train(order(mura, backbone_weights, tmp_path / "out", recipe))


def test_a_checkpoint_of_another_run_is_not_gone_on_from(mura: Path, backbone_weights: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALL, patience=0, stages=(Stage(0, 1, 1e-3), Stage(0, 40, 1e30)))
    with pytest.raises(TrainingFailure):
        train(order(mura, backbone_weights, tmp_path / "out", recipe))
    with pytest.raises(UsageError, match=r"is of a run with another recipe, data, weights"):
        train(order(mura, backbone_weights, tmp_path / "out", dataclasses.replace(recipe, batch_size=4)))
    next((tmp_path / "out").rglob("checkpoint.npz")).write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UsageError, match=r"checkpoint\.npz is damaged .* delete it"):
        train(order(mura, backbone_weights, tmp_path / "out", recipe))


def test_a_full_disk_is_said_and_what_was_there_stays(mura: Path, backbone_weights: Path, tmp_path: Path) -> None:
    out, limits = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
        with pytest.raises(StorageOutage, match=r"cannot be written|are needed .*free some"):
            train(order(mura, backbone_weights, out, SHORT))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    train(order(mura, backbone_weights, out, SHORT))


def test_two_runs_do_not_work_in_one_folder(mura: Path, backbone_weights: Path, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "out").mkdir()
    with (tmp_path / "out/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another training run works in"):
            train(order(mura, backbone_weights, tmp_path / "out"))


def test_weights_of_another_network_and_films_of_one_class_are_refused_before_any_hour_is_lost(
    mura: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="cannot build DenseNet121"):
        train(order(mura, backbone_weights, tmp_path / "a", dataclasses.replace(SHORT, backbone="DenseNet121")))
    for study in (mura / "XR_HUMERUS").glob("*/*_positive"):
        study.rename(study.with_name("study1_negative"))
    with pytest.raises(UsageError, match="the data has one class only: all 48 images are negative"):
        train(order(mura, backbone_weights, tmp_path / "b", SHORT))


def test_a_network_can_begin_as_another_packages_unless_that_has_learnt_what_is_held_out(
    mura: Path, backbone_weights: Path, tmp_path: Path
) -> None:
    first, _ = train(order(mura, backbone_weights, tmp_path / "first", SHORT))
    again = dataclasses.replace(order(mura, backbone_weights, tmp_path / "second", SHORT), initial=first)
    second, _ = train(again)
    roles = [data.role for data in second.card.training_data]
    assert "the backbone's first weights, by the package small 1" in roles[1]
    other_split = dataclasses.replace(again, out=tmp_path / "third", recipe=dataclasses.replace(SHORT, seed=7))
    with pytest.raises(UsageError, match=r"cannot be begun with.* The model has learnt from \d+ of these"):
        train(other_split)
    train(dataclasses.replace(other_split, split=read_split(first.path / "split.csv")))
    another = dataclasses.replace(
        again, out=tmp_path / "fourth", recipe=dataclasses.replace(SHORT, backbone="MobileNetV2")
    )
    with pytest.raises(UsageError, match="has a MobileNet, the recipe a MobileNetV2"):
        train(another)
