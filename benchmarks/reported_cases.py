"""Read small inputs made after public bug reports, and print what each came to, beside what is right.

    python -m benchmarks.reported_cases CASES

CASES is a folder with ``expect.json``: a list of cases, each with an ``id`` and either a ``file``, the picture that it
must be ``like``, the least correlation ``corr`` and the greatest mean difference in ``gray`` levels; or an ``archive``,
which is screened in a home of its own, with the number of ``studies`` and ``images`` where one is right. Archives of
one id must have the same score. The exit code is 1 if a case did not come out right.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xray.errors import FileFault
from xray.images.decode import MAX_PIXELS, open_image

SCORE_TOLERANCE = 0.005


@dataclass(frozen=True)
class Screened:
    """What screening an archive came to: exit code, what was said, and the rows of studies and images."""

    code: int
    said: list[str]
    studies: list[dict[str, Any]]
    images: list[dict[str, Any]]


def main() -> int:
    """Print every case; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path)
    folder = parser.parse_args().cases
    cases = json.loads((folder / "expect.json").read_text())
    scores: dict[str, float] = {}
    wrong = 0
    for case in cases:
        if "file" in case:
            problems, lines = _check_file(folder, case)
        else:
            screened = _screen(folder / case["archive"])
            problems, lines = list(_problems(case, screened, scores)), list(_described(screened))
        wrong += bool(problems)
        print(f"{'WRONG' if problems else 'right'}  {case['id']}  {case.get('file') or case['archive']}")
        for line in [*lines, *(f"WRONG: {problem}" for problem in problems)]:
            print(f"         {line}")
    print(f"{len(cases) - wrong} of {len(cases)} right")
    return 1 if wrong else 0


def _check_file(folder: Path, case: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    right = np.asarray(Image.open(folder / case["like"]).convert("L"), np.float64)
    try:
        image = open_image((folder / case["file"]).read_bytes())
        gray = image.gray(MAX_PIXELS).astype(np.float64)
    except FileFault as fault:
        return ["it is not read"], [f"fails: {fault}"]
    if gray.shape != right.shape:
        return [f"{gray.shape}, not {right.shape}"], []
    correlation, difference = np.corrcoef(gray.ravel(), right.ravel())[0, 1], np.abs(gray - right).mean()
    ok = correlation >= case["corr"] and difference <= case["gray"]
    line = f"correlation {correlation:.3f} (at least {case['corr']}), "
    line += f"{difference:.1f} gray levels off (at most {case['gray']})"
    return [] if ok else ["another picture"], [line]


def _screen(archive: Path) -> Screened:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "BONESCREEN_HOME": folder, "COLUMNS": "200"}

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "bonescreen", *words]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

        done = run("screen", str(archive))
        listed = [run("results", *option, "--format", "json") for option in ([], ["--images"])]
    studies, images = (json.loads(one.stdout) if one.returncode == 0 else [] for one in listed)
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return Screened(done.returncode, said, studies, images)


def _problems(case: Mapping[str, Any], screened: Screened, scores: dict[str, float]) -> Iterator[str]:
    studies, images = screened.studies, screened.images
    said = " ".join(screened.said)
    if case.get("studies") is not None and len(studies) != case["studies"]:
        yield f"{len(studies)} studies, not {case['studies']}"
    if case.get("images") is not None and sum(row["images"] for row in studies) != case["images"]:
        yield f"{sum(row['images'] for row in studies)} images, not {case['images']}"
    if "Traceback" in said:
        yield "a traceback"
    if case.get("studies") is not None and any(row["status"] != "scored" for row in studies):
        yield "a study is not scored"
    if case["id"] == "patients-in-one-study" and (
        "patients" not in said or any(row["score"] is not None for row in studies)
    ):
        yield "several patients are one study, and nothing is said"
    if case["id"] in ("encrypted-zip", "zip-of-zips") and not studies and screened.code == 0:
        yield "nothing was read, and nothing is said"
    if case["id"] == "for-processing" and len(images) > 1 and all(row["state"] == "scored" for row in images):
        yield "the raw image is not named"
    score = next((row["score"] for row in studies if row["score"] is not None), None)
    if score is not None and "score of this" in case.get("note", ""):
        first = scores.setdefault(case["id"], score)
        if abs(first - score) > SCORE_TOLERANCE:
            yield f"the score is {score:.3f}, not {first:.3f}"


def _described(screened: Screened) -> Iterator[str]:
    warnings = [line for line in screened.said if line.startswith(("warning", "error", "out of scope", "skipped"))]
    yield from (f"said: {line}" for line in warnings[:3])
    for row in screened.studies[:4]:
        score = "no score" if row["score"] is None else f"score {row['score']:.3f}"
        part = row["body_part"] or "unknown"
        yield f"study {row['study']}: {row['status']}, {score}, {row['images']} images, {part}"
    for row in screened.images[:6]:
        yield f"image {row['image']}: {row['reason'] or row['state']}" + (
            f" ({row['detail']})" if row["detail"] else ""
        )
    yield f"exit code {screened.code}"


if __name__ == "__main__":
    sys.exit(main())
