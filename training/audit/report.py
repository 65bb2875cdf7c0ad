"""The report of an audit: a page with pictures, the same as JSON, and suggested groups."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray
from PIL import Image

from training.audit.audited_dataset import AuditedDataset
from training.audit.near_duplicates import join_groups
from training.audit.problems import Problem, all_problems, conclusion
from training.audit.read_images import AuditedImage
from training.data.dataset import Dataset, Role
from training.disk import table_text
from training.report_page import BLUE, encode_image, figure_png, in_report_style, render_page, write_report
from xray.errors import FileFault
from xray.images.decode import decode
from xray.vocabulary import RESEARCH_NOTICE, Label

PAGE_FILE, JSON_FILE, GROUPS_FILE = "report.html", "report.json", "groups.csv"
ALL = "all images"
PALE, DEEP = "#c9d8e3", "#0b2438"
EXAMPLES = 8
"""Examples of a problem on the page; the JSON file has all of them."""

THUMBNAIL_SIDE = 240
"""Long side of a thumbnail in pixels: twice its size on the page, for sharp screens and print."""


@dataclass(frozen=True)
class BalanceRow:
    """Counts of one subset of the readable images.

    Attributes
    ----------
    of : str
        ``"data"``, ``"body part"`` or ``"part of the split"``.
    name : str
        Its name.
    images, positives, studies, groups : int
        Numbers of images, of positive ones, and of studies and groups among them.
    """

    of: str
    name: str
    images: int
    positives: int
    studies: int
    groups: int

    @property
    def prevalence(self) -> float:
        """Share of the images that is positive, in [0, 1]; 0 where there are none."""
        return self.positives / self.images if self.images else 0.0


def balance(audited: AuditedDataset) -> tuple[BalanceRow, ...]:
    """Count the readable images: all of them, by body part, and by part of the split."""
    dataset = audited.dataset
    rows = [_balance_row(dataset, "data", ALL, np.ones(len(dataset), np.bool_))]
    for part in sorted(set(dataset.body_parts.tolist())):
        rows.append(_balance_row(dataset, "body part", part or "unknown", dataset.body_parts == part))
    if audited.has_split:
        rows.extend(_balance_row(dataset, "part of the split", role, audited.parts == role) for role in Role)
    return tuple(rows)


def _balance_row(dataset: Dataset, of: str, name: str, chosen: NDArray[np.bool_]) -> BalanceRow:
    return BalanceRow(
        of,
        str(name),
        int(chosen.sum()),
        int(dataset.labels[chosen].sum()),
        len(np.unique(dataset.studies[chosen])),
        len(np.unique(dataset.groups[chosen])),
    )


@in_report_style
def balance_figure(rows: Sequence[BalanceRow]) -> Figure:
    """Draw the positive and negative images of each row as a bar."""
    figure = Figure(figsize=(6.4, 0.7 + 0.32 * len(rows)))
    axes = figure.subplots()
    positions = np.arange(len(rows))[::-1]
    positives = np.array([row.positives for row in rows])
    images = np.array([row.images for row in rows])
    axes.barh(positions, positives, color=BLUE, label="positive", height=0.68)
    axes.barh(positions, images - positives, left=positives, color=PALE, label="negative", height=0.68)
    for position, row in zip(positions, rows, strict=True):
        axes.annotate(f"{row.prevalence:.0%}", (row.images, position), (4, 0), textcoords="offset points", va="center")
    axes.set_yticks(positions, [row.name for row in rows])
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, max(1, images.max(initial=1)) * 1.08)
    axes.set_xlabel("images (percentage: positive)")
    axes.legend(loc="lower right")
    return figure


@in_report_style
def sizes_figure(images: Sequence[AuditedImage]) -> Figure:
    """Draw the widths, heights and proportions of images."""
    width, height = (np.array([getattr(image, side) for image in images]) for side in ("width", "height"))
    figure = Figure(figsize=(6.4, 2.9))
    sizes, proportions = figure.subplots(1, 2)
    top = 1.05 * max(int(width.max()), int(height.max()))
    blues = LinearSegmentedColormap.from_list("blues", [PALE, BLUE, DEEP])
    drawn = sizes.hist2d(width, height, bins=40, range=((0, top), (0, top)), cmin=1, cmap=blues, norm=LogNorm())
    figure.colorbar(drawn[3], ax=sizes, label="images", ticks=LogLocator(subs=(1.0,)), format="%g")
    sizes.set(xlabel="width, pixels", ylabel="height, pixels", aspect="equal")
    proportions.hist(width / height, bins=30, color=BLUE)
    proportions.set(xlabel="width / height", ylabel="images")
    return figure


@dataclass(frozen=True)
class AuditReport:
    """All that the three files hold.

    Attributes
    ----------
    audited : AuditedDataset
        The data that were audited.
    problems : tuple of Problem
        The worst first.
    groups : mapping of str to str
        From image to suggested group, of the whole data set.
    """

    audited: AuditedDataset
    problems: tuple[Problem, ...]
    groups: Mapping[str, str]

    @classmethod
    def of(cls, audited: AuditedDataset, whole: Dataset) -> "AuditReport":
        """Report on audited data; `whole` also has the body parts that were left out, as groups need all images."""
        joined = join_groups(audited.dataset.groups.tolist(), audited.pairs)
        groups = {example.image: joined.get(example.group, example.group) for example in whole.examples}
        return cls(audited, all_problems(audited), groups)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as values that JSON can hold."""
        listed, dataset = self.audited.listed, self.audited.dataset
        return {
            "notice": RESEARCH_NOTICE,
            "conclusion": conclusion(self.problems),
            "data": {
                "name": listed.terms.name,
                "folder": str(listed.root),
                "finding": listed.finding,
                "images": len(listed),
                "readable": len(dataset),
                "positives": int(dataset.labels.sum()),
                "studies": len(np.unique(dataset.studies)),
                "groups": len(np.unique(dataset.groups)),
                "suggested_groups": len({self.groups[image] for image in dataset.images.tolist()}),
            },
            "split": self.audited.split,
            "problems": [asdict(problem) for problem in self.problems],
            "balance": [asdict(row) for row in balance(self.audited)],
            "sizes": _sizes(self.audited.images),
        }

    def write(self, folder: Path) -> None:
        """Write the three files; the folder is made if it is missing.

        Raises
        ------
        StorageOutage
            If one cannot be written.
        """
        # Group names go back to the reader byte by byte, also where they are not in the locale's encoding.
        groups = table_text(("image", "group"), self.groups.items()).encode("utf-8", "surrogateescape")
        numbers = json.dumps(self.to_dict(), indent=2) + "\n"
        write_report(folder, {GROUPS_FILE: groups, JSON_FILE: numbers, PAGE_FILE: self._page()})

    def _page(self) -> str:
        rows, images = balance(self.audited), self.audited.images
        return render_page(
            "audit.html.j2",
            report=self.to_dict(),
            problems=self.problems,
            examples=[_examples(self.audited, problem) for problem in self.problems],
            balance=rows,
            balance_plot=figure_png(balance_figure(rows)),
            sizes_plot=figure_png(sizes_figure(images)) if images else None,
        )


def _sizes(images: Sequence[AuditedImage]) -> dict[str, Any]:
    if not images:
        return {}
    sides = {side: [getattr(image, side) for image in images] for side in ("width", "height")}
    ranges = {side: {"least": min(s), "median": int(np.median(s)), "most": max(s)} for side, s in sides.items()}
    aspects = np.array(sides["width"]) / np.array(sides["height"])
    named = zip(("least", "median", "most"), (aspects.min(), np.median(aspects), aspects.max()), strict=True)
    return {**ranges, "width_by_height": {name: round(float(value), 3) for name, value in named}}


def _examples(audited: AuditedDataset, problem: Problem) -> Sequence[Mapping[str, Any]]:
    """Return the first examples of a problem: each with its caption, and a picture and the labels of its images."""
    parts = dict(zip(audited.dataset.images.tolist(), audited.parts.tolist(), strict=True))
    labelled = {example.image: example for example in audited.listed.examples}
    captions = problem.captions or ("",) * len(problem.images)
    return [
        {
            "caption": caption,
            "images": [
                {
                    "name": image,
                    "picture": thumbnail(audited.listed.root / image) if image in parts else None,
                    "label": Label.POSITIVE if labelled[image].label else Label.NEGATIVE,
                    "group": labelled[image].group,
                    "part": parts.get(image, ""),
                }
                for image in together[:EXAMPLES]
            ],
        }
        for together, caption in zip(problem.images[:EXAMPLES], captions[:EXAMPLES], strict=True)
    ]


def thumbnail(file: Path) -> bytes | None:
    """Return an image as a small JPEG, or None where it cannot be read."""
    try:
        image = Image.fromarray(decode(file.read_bytes()))
    except (FileFault, OSError):
        return None
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return encode_image(image, "JPEG", quality=80)
