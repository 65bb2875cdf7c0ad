"""Compare the speed of screening a zip or a tar with that of a folder of the same images.

    python -m benchmarks.container_speed /data/images --images 2000 --rounds 3

Copies the first images of a folder to a new folder, a zip (stored, as JPEG does not deflate) and a tar, and screens
each with `bonescreen screen` in a new home. Each round screens all three, in a different order, as the machine's speed
changes over time. Prints the seconds of each, and its speed relative to the folder: median and range over the rounds.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archives = _make_archives(Path(folder), sorted(chosen.data.iterdir())[: chosen.images])
        # The first run makes the inference graph, which the others use.
        shared = Path(folder) / "graphs"
        _screen(archives["folder"], Path(folder) / "warm", shared)
        seconds: dict[str, list[float]] = {name: [] for name in archives}
        for number in range(chosen.rounds):
            names = list(archives)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                home = Path(folder) / f"home-{name}-{number}"
                seconds[name].append(_screen(archives[name], home, shared))
                shutil.rmtree(home)
    print(f"{chosen.images} images        s  (min to max)   relative to the folder")
    for name, taken in seconds.items():
        ratios = [folder_s / s for folder_s, s in zip(seconds["folder"], taken, strict=True)]
        print(
            f"{name:10} {statistics.median(taken):10.1f}  ({min(taken):.1f} to {max(taken):.1f})   "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def _make_archives(folder: Path, images: list[Path]) -> dict[str, Path]:
    archives = {"folder": folder / "images", "zip": folder / "images.zip", "tar": folder / "images.tar"}
    archives["folder"].mkdir()
    with zipfile.ZipFile(archives["zip"], "w") as zipped, tarfile.open(archives["tar"], "w") as taped:
        for image in images:
            shutil.copy2(image, archives["folder"] / image.name)
            zipped.write(image, image.name)
            taped.add(image, image.name)
    return archives


def _screen(archive: Path, home: Path, graphs: Path) -> float:
    home.mkdir()
    graphs.mkdir(exist_ok=True)
    (home / "graphs").symlink_to(graphs)
    environ = {**os.environ, "BONESCREEN_HOME": str(home), "BONESCREEN_QUIET_SECONDS": "0"}
    command = [sys.executable, "-m", "bonescreen", "screen", "--layout", "flat", str(archive)]
    started = time.monotonic()
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
