"""``bonescreen train`` as people call it: what it prints, and what it refuses before time is lost."""

from pathlib import Path

import pytest

from bonescreen.cli import main


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


@pytest.mark.parametrize("recipe", ["seed", "humerus", "fracture"])
def test_a_recipe_opens_with_its_command_its_data_and_what_was_measured(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, recipe, "--show")
    assert code == 0
    name, command, data, measured, blank, *numbers = out.splitlines()
    assert name.startswith(f"{recipe}, version ")
    assert command.startswith(f"# bonescreen train {recipe} --data ")
    assert data.startswith("# data: ")
    assert measured.startswith("# measured: ")
    assert blank == ""
    assert {"batch_size", "backbone", "seed"} <= {line.split(" = ")[0] for line in numbers}


def test_the_seed_recipe_is_the_work_we_descend_from(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "seed", "--show")
    assert "backbone = DenseNet121" in out
    assert "input_size = 224\ngeometry = squash" in out
    assert "stage 1 = the last 60 layers and the head, 40 epochs" in out
    assert "batch_size = 16" in out
    assert "body_parts = HUMERUS" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cake", "--show"], "no recipe named 'cake'; one of: seed, humerus, fracture"),
        (["seed"], "--data is missing"),
        (["seed", "--data", "/nowhere"], "there is no folder /nowhere"),
        (["seed", "--data", "MURA", "--weights", "nowhere.h5"], "no weights file at nowhere.h5"),
        (["seed", "--data", "MURA", "--backbone", "DenseNet12"], "no backbone named 'DenseNet12'; one of: "),
        (["seed", "--data", "MURA", "--body-part", "WRIST"], "has no images of WRIST, but of HUMERUS (48)"),
        (["seed", "--data", "MURA", "--split", "nowhere.csv"], "nowhere.csv cannot be read"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    arguments: list[str],
    message: str,
    mura: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, error = run(capsys, *(str(mura) if word == "MURA" else word for word in arguments))
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_a_model_is_trained_and_the_next_step_is_said(
    mura: Path,
    backbone_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--data", mura, "--weights", backbone_weights, "--backbone", "MobileNet", "--epochs", "1", "--no-graph")
    code, out, _ = run(capsys, "seed", *options, "--out", "trained", "--deterministic")
    assert code == 0
    assert "BONESCREEN_MODEL=trained/seed-1 bonescreen screen PATH" in out
    assert "For research only, not for diagnosis." in out
    card = (tmp_path / "trained/seed-1/card.json").read_text()
    assert "bonescreen train seed --data MURA-v1.1 --weights small.weights.h5 --backbone MobileNet" in card
    assert "--epochs 1 --deterministic" in card
    assert "Not quite the recipe seed 1: made with backbone MobileNet; stages" in card
    code, _, error = run(capsys, "seed", *options, "--out", "trained")
    assert (code, "trained/seed-1 exists: a model package is never changed" in error) == (2, True)
