"""Compare the speed of screening a DICOMweb service with that of a folder of the same files.

    python -m benchmarks.dicomweb_speed /data/images --images 300 --rounds 3 --dicom /data/dicom

Wraps the first pictures of a folder as DX, adds DICOM files if there are some, stores all in Debian's Orthanc on
loopback, and screens both with `bonescreen screen` in new homes. Each round screens both, each first in turn. Prints
images/s as `screen` says them, from the start of the workers to the last result, and relative to the folder: median and
range over the rounds. Ends with an error if a score differs.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydicom import dcmread

from tests.dicomweb import write_access
from tests.orthanc import Orthanc
from tests.radiographs import radiograph

PICTURES = (".jpg", ".jpeg", ".png")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dicom", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = _write_files(folder / "images", chosen.data, chosen.images, chosen.dicom)
        orthanc = Orthanc(folder / "orthanc")
        orthanc.start()
        try:
            orthanc.upload(files)
            print(f"{len(files)} files, {orthanc.instances()} instances")
            _compare(folder, orthanc, chosen.rounds)
        finally:
            orthanc.kill()


def _write_files(folder: Path, data: Path, images: int, dicom: Path | None) -> list[Path]:
    folder.mkdir()
    pictures = [file for file in sorted(data.rglob("*")) if file.suffix.lower() in PICTURES][:images]
    for number, picture in enumerate(pictures, 1):
        (folder / f"{number:05}.dcm").write_bytes(radiograph(picture, number))
    known = set()
    for file in sorted(dicom.iterdir()) if dicom else ():
        # Of files with one SOP Instance UID, Orthanc keeps the first, and a folder would have another study.
        instance = dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID
        if instance not in known:
            known.add(instance)
            shutil.copy(file, folder / file.name)
    return sorted(folder.iterdir())


def _compare(folder: Path, orthanc: Orthanc, rounds: int) -> None:
    service = f"dicomweb+{orthanc.dicomweb}"
    archives = {"folder": str(folder / "images"), "service": service}
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BONESCREEN_")},
        "BONESCREEN_DICOMWEB": str(write_access(folder, orthanc.dicomweb)),
        "BONESCREEN_QUIET_SECONDS": "0",
        "COLUMNS": "200",
    }
    # The first run makes the inference graph, which the others use.
    scores = {name: _screen(archive, folder / f"first-{name}", environ)[1] for name, archive in archives.items()}
    if scores["folder"] != scores["service"]:
        sys.exit("the scores differ")
    print(f"{len(scores['folder'])} studies have the same scores from both")
    rates: dict[str, list[float]] = {name: [] for name in archives}
    for number in range(rounds):
        for name in sorted(archives, reverse=number % 2 > 0):
            rates[name].append(_screen(archives[name], folder / f"home-{name}-{number}", environ)[0])
    for name, found in rates.items():
        ratios = [rate / of_folder for rate, of_folder in zip(found, rates["folder"], strict=True)]
        print(
            f"{name:8} {statistics.median(found):7.1f} images/s ({min(found):.1f} to {max(found):.1f}), "
            f"relative to the folder {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def _screen(archive: str, home: Path, environ: Mapping[str, str]) -> tuple[float, dict[str, Any]]:
    """Screen an archive in a new home; return images/s, and the scores by study."""
    told = _run(home, environ, "screen", archive)
    rate = re.search(r"([\d.]+) images/s", told)
    if rate is None:
        sys.exit(f"screen did not say how fast it was:\n{told}")
    results = json.loads(_run(home, environ, "results", "--format", "json"))
    shutil.rmtree(home / "broker", ignore_errors=True)
    return float(rate[1]), {one["study"]: (one["score"], one["status"], one["body_part"]) for one in results}


def _run(home: Path, environ: Mapping[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "bonescreen", *arguments]
    done = subprocess.run(command, env={**environ, "BONESCREEN_HOME": str(home)}, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        sys.exit(f"bonescreen {arguments[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
