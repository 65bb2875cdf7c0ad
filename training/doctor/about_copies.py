"""Findings about copies of one film: with conflicting labels, across the split, across groups, and all there are."""

from collections.abc import Iterator, Sequence

from training.doctor.duplicates import Kind, Pair
from training.doctor.examined import Examined
from training.doctor.finding import Finding, Severity

# Of pairs that differ by label, by part of the split, by group.
_HARM = (
    (
        "conflicting-labels", Severity.ERROR, "Copies of one film with different labels",
        "One of the two labels is wrong: let somebody who reads films say which, and correct the table.",
    ),
    (
        "across-split", Severity.ERROR, "Copies in two parts of the split",
        "The model would be measured on films it has learnt: train and evaluate with --groups groups.csv, which is "
        "beside this report, or drop one of the two.",
    ),
    (
        "across-groups", Severity.WARNING, "Copies in two groups",
        "A split by these groups may part them: train and evaluate with --groups groups.csv, which is beside this "
        "report.",
    ),
)  # fmt: skip
_ADVICE = {
    Kind.BYTES: "Each counts as a film of its own in training and in measurements: keep one, and drop the other.",
    Kind.PIXELS: "Each counts as a film of its own in training and in measurements: keep one, and drop the other.",
    Kind.NEAR: "Look whether they are one exposure; if so, keep one, or keep them in one group.",
    Kind.MIRRORED: "Look whether somebody has added mirrored films: training mirrors by itself, so drop them.",
    Kind.INVERTED: "Look which of the two shows bone bright, and drop the other.",
    Kind.MIRRORED_INVERTED: "Look which of the two shows bone bright, and drop the other.",
}
_TITLE = {
    Kind.BYTES: "The same file twice",
    Kind.PIXELS: "The same picture in two files",
    Kind.NEAR: "Nearly the same picture",
    Kind.MIRRORED: "The same picture, mirrored",
    Kind.INVERTED: "The same picture, inverted",
    Kind.MIRRORED_INVERTED: "The same picture, mirrored and inverted",
}


def about_copies(examined: Examined) -> Iterator[Finding]:
    """Say which films are there more than once, and what harm that does."""
    for (code, severity, title, advice), of in zip(
        _HARM, (examined.dataset.labels, examined.parts, examined.dataset.groups), strict=True
    ):
        pairs = [pair for pair in examined.pairs if of[pair.first] != of[pair.second]]
        yield from _finding(examined, code, severity, title, advice, pairs)
    for kind in Kind:
        severity = Severity.WARNING if kind in (Kind.BYTES, Kind.PIXELS) else Severity.NOTE
        pairs = [pair for pair in examined.pairs if pair.kind is kind]
        yield from _finding(
            examined, f"copies-{kind.name.lower().replace('_', '-')}", severity, _TITLE[kind], _ADVICE[kind], pairs
        )


def _finding(
    examined: Examined, code: str, severity: Severity, title: str, advice: str, pairs: Sequence[Pair]
) -> Iterator[Finding]:
    if pairs:
        images = examined.dataset.images
        named = tuple((str(images[pair.first]), str(images[pair.second])) for pair in pairs)
        yield Finding(code, severity, title, len(pairs), "pair", advice, named, tuple(_caption(pair) for pair in pairs))


def _caption(pair: Pair) -> str:
    if pair.kind in (Kind.BYTES, Kind.PIXELS):
        return str(pair.kind)
    return f"{pair.kind}, correlation {pair.correlation:.3f}"
