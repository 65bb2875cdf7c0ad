"""True and false alarms of the check that refuses pictures that cannot be radiographs.

    python -m benchmarks.plausibility FRACATLAS/images DICOM ... --cases CASES

Of the folders' images, which must all pass, it prints how many are refused, with the upper end of the 95 % interval,
and what `looks_negative` says of them. Then it damages images of the first folder in 500 ways, 100 of each kind: images
that no threshold was tuned to (an odd first byte of the SHA-256 of their names), written as 16-bit PNG and read like
any file. ``--cases`` is a folder with an ``expect.json``: files, and for each the picture that a reader should come to.
"""

import argparse
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xray.errors import FileFault
from xray.images.decode import decode, decode_plausible, open_image
from xray.images.plausibility import check_plausible, looks_negative
from xray.vocabulary import Reason

EACH = 100
Gray = NDArray[np.uint8]
Deep = NDArray[np.uint16]


def is_held_out(path: Path) -> bool:
    """Tell whether no threshold was tuned to an image."""
    return hashlib.sha256(path.name.encode()).digest()[0] % 2 == 1


def deepen(gray: Gray, bits: int, rng: np.random.Generator) -> Deep:
    """Return a picture of more bits, with the noise of a detector below the eighth."""
    smooth = np.asarray(Image.fromarray(gray.astype(np.float32)).resize(gray.shape[::-1], Image.Resampling.BICUBIC))
    scaled = (smooth + rng.normal(0, 0.4, gray.shape)) * ((2**bits - 1) / 255)
    return np.asarray(np.clip(np.rint(scaled), 0, 2**bits - 1), np.uint16)


def swap_bytes(gray: Gray, rng: np.random.Generator) -> tuple[str, Deep]:
    """Swap the bytes of a picture of 12 or 16 bits."""
    bits = int(rng.choice([12, 16]))
    return f"bytes of {bits} bits swapped", deepen(gray, bits, rng).byteswap()


def wrap_bits(gray: Gray, rng: np.random.Generator) -> tuple[str, Deep]:
    """Drop the highest bits of a picture whose values exceed them, by 1 to 4 bits or by less than one."""
    factor = float(2 ** rng.uniform(0.2, 4))
    wrapped = (deepen(gray, 12, rng) * factor).astype(np.uint32) & 0xFFF
    name = "once" if factor < 2 else "1 to 4 times" if factor < 5 else "more often"
    return f"values wrap around, {name}", wrapped.astype(np.uint16)


def invert(gray: Gray, rng: np.random.Generator) -> tuple[str, Deep]:
    """Invert a picture."""
    return "inverted", 4095 - deepen(gray, 12, rng)


def shift_rows(gray: Gray, rng: np.random.Generator) -> tuple[str, Deep]:
    """Read a picture with a wrong row length."""
    width = gray.shape[1]
    error = int(rng.choice([1, 2, 3, 4, 8, 16, 32, 64]) * rng.choice([-1, 1]))
    flat = deepen(gray, 12, rng).ravel()
    rows = flat.size // (width + error)
    size = "1 pixel" if abs(error) == 1 else "2 to 4 pixels" if abs(error) <= 4 else "8 to 64 pixels"
    return f"row length wrong by {size}", flat[: rows * (width + error)].reshape(rows, width + error)


def window(gray: Gray, rng: np.random.Generator) -> tuple[str, Deep]:
    """Apply a window that may lie anywhere, and be far too narrow."""
    centre, width = rng.uniform(0, 4095), 4095 * 2 ** rng.uniform(-6, 0)
    deep = np.clip((deepen(gray, 12, rng) - centre) / width + 0.5, 0, 1)
    cut = float(((deep == 0) | (deep == 1)).mean())
    name = next(
        name for most, name in ((0.5, "under 50"), (0.9, "50 to 90"), (0.98, "90 to 98"), (2, "over 98")) if cut < most
    )
    return f"window cuts off {name} % of the pixels", np.asarray(np.rint(deep * 65535), np.uint16)


KINDS: tuple[Callable[[Gray, np.random.Generator], tuple[str, Deep]], ...] = (
    swap_bytes,
    wrap_bits,
    invert,
    shift_rows,
    window,
)


def png(deep: Deep) -> bytes:
    """Write a 16-bit PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(deep)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def alarm_of(gray: Gray) -> str:
    """Return why a picture is refused; empty if it is not."""
    try:
        check_plausible(gray)
    except FileFault as fault:
        return fault.detail
    return ""


def readable(paths: Sequence[Path]) -> Iterator[tuple[Path, Gray]]:
    """Decode the files that can be decoded."""
    for path in paths:
        try:
            yield path, decode(path.read_bytes())
        except FileFault:
            continue


def test_real(folder: Path) -> tuple[int, int]:
    """Print how many images of a folder are refused; return how many were read and refused."""
    refused, negative = {}, Counter[str]()
    total = 0
    for path, gray in readable(sorted(path for path in folder.rglob("*") if path.is_file())):
        total += 1
        negative[str(looks_negative(gray))] += 1
        if alarm := alarm_of(gray):
            refused[path.name] = alarm
    print(f"{folder.name}: {len(refused)} of {total:,} refused; looks negative: {dict(negative)}")
    for name, alarm in refused.items():
        print(f"    {name}: {alarm}")
    return total, len(refused)


def test_damaged(folder: Path) -> None:
    """Print how many damaged images are refused, by kind of damage."""
    held_out = [path for path in sorted(folder.rglob("*")) if path.is_file() and is_held_out(path)]
    rng = np.random.default_rng(12)
    images = [gray for _, gray in readable([held_out[i] for i in rng.permutation(len(held_out))[: EACH * 5 + 50]])]
    totals, alarms = Counter[str](), Counter[str]()
    reasons: dict[str, Counter[str]] = {}
    negative = Counter[str]()
    for number in range(EACH * len(KINDS)):
        make = KINDS[number % len(KINDS)]
        name, deep = make(images[number], rng)
        totals[name] += 1
        try:
            decoded = decode_plausible(open_image(png(deep)))
        except FileFault as fault:
            if fault.reason is not Reason.IMPLAUSIBLE:
                raise
            alarms[name] += 1
            reasons.setdefault(name, Counter())[fault.detail] += 1
        else:
            if make is invert:
                negative[str(looks_negative(decoded))] += 1
    print(f"\ndamaged, {totals.total()} images that the thresholds were not tuned to:")
    for name in sorted(totals):
        print(f"  {name}: {alarms[name]} of {totals[name]} refused")
        for reason, count in reasons.get(name, Counter()).most_common():
            print(f"      {count:3} {reason}")
    print(f"  the inverted ones look negative: {dict(negative)}")


def test_cases(folder: Path) -> None:
    """Print of each case whether its gray is right and whether it is refused."""
    print("\ncases:")
    for case in json.loads((folder / "expect.json").read_text()):
        if "like" not in case:
            continue
        try:
            gray = decode((folder / case["file"]).read_bytes())
        except FileFault as fault:
            print(f"  {case['file']}: {fault}")
            continue
        like = np.asarray(Image.open(folder / case["like"]).convert("L")).astype(np.float64)
        right = gray.shape == like.shape
        if right:
            off = np.abs(gray - like).mean()
            correlation = np.corrcoef(gray.ravel(), like.ravel())[0, 1] if gray.std() else 0.0
            right = off <= case["gray"] and correlation >= case["corr"]
        alarm = alarm_of(gray)
        verdict = {
            (True, False): "right gray, passes",
            (True, True): "FALSE ALARM",
            (False, True): "wrong gray, refused",
            (False, False): "MISSED: wrong gray, passes",
        }[bool(right), bool(alarm)]
        print(f"  {case['file']}: {verdict}{f' ({alarm})' if alarm else ''}")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--cases", type=Path)
    chosen = parser.parse_args()
    total = refused = 0
    for folder in chosen.folders:
        read, alarms = test_real(folder)
        total, refused = total + read, refused + alarms
    upper = "" if refused else f"; at most {3 / total:.2%} with 95 % confidence (rule of three)"
    print(f"real images: {refused} of {total:,} refused{upper}")
    test_damaged(chosen.folders[0])
    if chosen.cases:
        test_cases(chosen.cases)


if __name__ == "__main__":
    main()
