"""``bonescreen train``: what it prints, and what it refuses before training."""

from pathlib import Path

import pytest

from bonescreen.cli import main
from tests.training.conftest import backbone_weights, mura  # noqa: F401
from xray.network.package import load_package


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Run the command in this process and return its exit code, output and errors."""
    try:
        main(["train", *map(str, arguments)])
    except SystemExit as end:
        code = int(end.code or 0)
    else:
        code = 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("recipe", ["humerus-baseline", "humerus", "fracture"])
def test_a_recipe_is_printed_with_its_command_its_data_and_its_result(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, recipe, "--show")
    assert code == 0
    name, command, data, measured, blank, *settings = out.splitlines()
    assert name.startswith(f"{recipe}, version ")
    assert command.startswith(f"# bonescreen train {recipe} --data ")
    assert data.startswith("# data: ")
    assert measured.startswith("# measured: ")
    assert blank == ""
    assert {"batch_size", "backbone", "seed"} <= {line.split(" = ")[0] for line in settings}


def test_the_recipe_humerus_baseline_has_the_settings_of_the_work_that_it_repeats(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out, _ = run(capsys, "humerus-baseline", "--show")
    assert "backbone = DenseNet121" in out
    assert "input_size = 224\ngeometry = squash" in out
    assert "stage 1 = train the top 60 backbone layers and the head, 40 epochs" in out
    assert "https://github.com/vraul92/Humerus-Bone-Fracture-Detection" in out
    assert "batch_size = 16" in out
    assert "body_parts = HUMERUS" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cake", "--show"], "no recipe named 'cake'; one of: humerus-baseline, humerus, fracture"),
        (["humerus-baseline"], "--data is missing"),
        (["humerus-baseline", "--data", "/nowhere"], "there is no folder /nowhere"),
        (
            ["humerus-baseline", "--data", "MURA", "--weights", "nowhere.h5"],
            "there is no weights file and no model package nowhere.h5",
        ),
        (
            ["humerus-baseline", "--data", "MURA", "--backbone", "DenseNet12"],
            "no backbone named 'DenseNet12'; one of: ",
        ),
        (
            ["fracture", "--data", "MURA", "--backbone", "DenseNet169"],
            "has a finer map from the layer block14_add of EfficientNetLite2: leave out --backbone, or choose a recipe "
            "without a finer map (humerus-baseline, humerus)",
        ),
        (["humerus-baseline", "--data", "MURA", "--body-part", "WRIST"], "has no images of WRIST. It has HUMERUS (48)"),
        (["humerus-baseline", "--data", "MURA", "--split", "nowhere.csv"], "nowhere.csv cannot be read"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(
    arguments: list[str],
    message: str,
    mura: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The default of --out is a folder in the working directory.
    monkeypatch.chdir(tmp_path)
    code, _, error = run(capsys, *(str(mura) if word == "MURA" else word for word in arguments))
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_a_model_is_trained_once_and_the_next_step_is_printed(
    mura: Path,  # noqa: F811
    backbone_weights: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--data", mura, "--weights", backbone_weights, "--backbone", "MobileNet", "--epochs", "1", "--no-graph")
    code, out, error = run(capsys, "humerus-baseline", *options, "--out", "trained", "--deterministic")
    assert code == 0
    # 24 patients, so the validation part has few.
    warning = "Too few images to choose calibration and thresholds on: "
    assert [line for line in error.splitlines() if line.startswith(f"WARNING: {warning}")]
    assert 0 < out.index(f"WARNING: {warning}") < out.index("stage 1/1, epoch 1/1"), "not said before the training"
    limits = load_package(tmp_path / "trained/humerus-baseline-1").card.limits
    assert [limit for limit in limits if limit.startswith(warning)]
    assert "BONESCREEN_MODEL=trained/humerus-baseline-1 bonescreen screen PATH" in out
    assert "For research only, not for diagnosis." in out
    card = (tmp_path / "trained/humerus-baseline-1/card.json").read_text()
    assert "bonescreen train humerus-baseline --data MURA-v1.1 --weights small.weights.h5 --backbone MobileNet" in card
    assert "--epochs 1 --deterministic" in card
    assert "Settings changed from the recipe humerus-baseline 1: backbone MobileNet; stages" in card
    assert "1 epoch," in card
    digest = load_package(tmp_path / "trained/humerus-baseline-1").digest
    code, out, _ = run(capsys, "humerus-baseline", *options, "--out", "trained", "--deterministic")
    assert (code, f"already trained: trained/humerus-baseline-1 (digest {digest[:12]})" in out) == (0, True)
    code, _, error = run(capsys, "humerus-baseline", *options, "--out", "trained")
    assert (code, "trained/humerus-baseline-1 exists and was made by a different command" in error) == (2, True)
    assert "choose a different --out" in error
