"""How many images of each label there are: over all, of each body part, in each part of the split."""

import io
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, FileSystemLoader
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray
from PIL import Image

from training.audit.examination import Examination
from training.audit.findings import Finding, all_findings, verdict
from training.audit.near_duplicates import join_groups
from training.audit.survey import AuditedImage
from training.data.dataset import Dataset, Role
from training.disk import table_text, write_atomically
from xray.errors import FileFault
from xray.images.decode import decode
from xray.vocabulary import RESEARCH_NOTICE

ALL = "all images"


@dataclass(frozen=True)
class Share:
    """One row of the table.

    Attributes
    ----------
    of : str
        ``"data"``, ``"body part"`` or ``"part of the split"``.
    name : str
        Which one.
    images, positives, studies, groups : int
        How many it has that can be read.
    """

    of: str
    name: str
    images: int
    positives: int
    studies: int
    groups: int

    @property
    def share(self) -> float:
        """Positive images among all, in [0, 1]; 0 where there are none."""
        return self.positives / self.images if self.images else 0.0


def balance(examined: Examination) -> tuple[Share, ...]:
    """Count the images that can be read."""
    dataset = examined.dataset
    rows = [_share(dataset, "data", ALL, np.ones(len(dataset), np.bool_))]
    for part in sorted(set(dataset.body_parts.tolist())):
        rows.append(_share(dataset, "body part", part or "unknown", dataset.body_parts == part))
    if examined.has_split:
        rows.extend(_share(dataset, "part of the split", role, examined.parts == role) for role in Role)
    return tuple(rows)


def _share(dataset: Dataset, of: str, name: str, chosen: NDArray[np.bool_]) -> Share:
    return Share(
        of,
        str(name),
        int(chosen.sum()),
        int(dataset.labels[chosen].sum()),
        len(np.unique(dataset.studies[chosen])),
        len(np.unique(dataset.groups[chosen])),
    )


LONG_SIDE = 240
"""Pixels; twice what a page shows, for sharp screens and print."""


def thumbnail(file: Path) -> str | None:
    """Return a film as a JPEG ``data:`` URI, or None when it cannot be read."""
    try:
        film = Image.fromarray(decode(file.read_bytes()))
    except (FileFault, OSError):
        return None
    film.thumbnail((LONG_SIDE, LONG_SIDE))
    jpeg = io.BytesIO()
    film.save(jpeg, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{b64encode(jpeg.getvalue()).decode()}"


ACCENT, PALE, INK = "#1f5f8b", "#c9d8e3", "#222222"
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "text.color": INK,
    "axes.labelcolor": INK,
    # the same page for the same data
    "svg.hashsalt": "bonescreen",
}


def plot_balance(shares: Sequence[Share]) -> str:
    """Draw positive and negative images of each row as a bar; returns a ``data:`` URI."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 0.7 + 0.32 * len(shares)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(shares))[::-1]
        positives = np.array([share.positives for share in shares])
        images = np.array([share.images for share in shares])
        axes.barh(places, positives, color=ACCENT, label="positive", height=0.68)
        axes.barh(places, images - positives, left=positives, color=PALE, label="negative", height=0.68)
        for place, share in zip(places, shares, strict=True):
            axes.annotate(f"{share.share:.0%}", (share.images, place), (4, 0), textcoords="offset points", va="center")
        # A body part's name comes from a file, and is no formula.
        axes.set_yticks(places, [share.name for share in shares], parse_math=False)
        axes.set_xlim(0, max(1, images.max(initial=1)) * 1.08)
        axes.set_xlabel("images (percentage: positive)")
        axes.legend(frameon=False, loc="lower right")
        return _svg(figure)


def plot_sizes(films: Sequence[AuditedImage]) -> str:
    """Draw how wide and high films are, and their proportions; returns a ``data:`` URI."""
    width, height = (np.array([getattr(film, side) for film in films]) for side in ("width", "height"))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 2.9), layout="constrained")
        sizes, proportions = figure.subplots(1, 2)
        top = 1.05 * max(int(width.max()), int(height.max()))
        blues = LinearSegmentedColormap.from_list("accent", [PALE, ACCENT, "#0b2438"])
        drawn = sizes.hist2d(width, height, bins=40, range=((0, top), (0, top)), cmin=1, cmap=blues, norm=LogNorm())
        figure.colorbar(drawn[3], ax=sizes, label="images", ticks=LogLocator(subs=(1.0,)), format="%g")
        sizes.set(xlabel="width, pixels", ylabel="height, pixels", aspect="equal")
        proportions.hist(width / height, bins=30, color=ACCENT)
        proportions.set(xlabel="width / height", ylabel="images")
        return _svg(figure)


def _svg(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{b64encode(file.getvalue()).decode()}"


PAGE, RECORD, GROUPS = "report.html", "report.json", "groups.csv"
SHOWN = 8
"""Examples of a finding on the page; the record has all."""


@dataclass(frozen=True)
class AuditReport:
    """What the three files say.

    Attributes
    ----------
    examined : Examined
        What was looked at.
    findings : tuple of Finding
        The worst first.
    groups : mapping of str to str
        From image to suggested group, of the whole data set.
    """

    examined: Examination
    findings: tuple[Finding, ...]
    groups: Mapping[str, str]

    @classmethod
    def of(cls, examined: Examination, whole: Dataset) -> "AuditReport":
        """Judge what was looked at; `whole` also has the body parts that were left aside, as groups need all images."""
        joined = join_groups(examined.dataset.groups.tolist(), examined.pairs)
        groups = {example.image: joined.get(example.group, example.group) for example in whole.examples}
        return cls(examined, all_findings(examined), groups)

    def record(self) -> dict[str, Any]:
        """Return everything as JSON's types."""
        listed, dataset = self.examined.listed, self.examined.dataset
        return {
            "notice": RESEARCH_NOTICE,
            "verdict": verdict(self.findings),
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
            "split": self.examined.split,
            "findings": [asdict(finding) for finding in self.findings],
            "balance": [asdict(share) for share in balance(self.examined)],
            "sizes": _sizes(self.examined),
        }

    def write(self, folder: Path) -> None:
        """Write the three files; the folder is made if missing.

        Raises
        ------
        StorageOutage
            If one cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in ((GROUPS, self._groups_csv()), (RECORD, json.dumps(self.record(), indent=2) + "\n")):
            content = text.encode("utf-8", "surrogateescape")
            write_atomically(folder / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
        page = self._page().encode("utf-8", "backslashreplace")
        write_atomically(folder / PAGE, lambda file: file.write(page))

    def _groups_csv(self) -> str:
        return table_text(("image", "group"), self.groups.items())

    def _page(self) -> str:
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        shares = balance(self.examined)
        return environment.get_template("report.html.j2").render(
            record=self.record(),
            findings=self.findings,
            shown=[_shown(self.examined, finding) for finding in self.findings],
            shares=shares,
            balance_plot=plot_balance(shares),
            sizes_plot=plot_sizes(self.examined.films) if self.examined.films else None,
        )


def _sizes(examined: Examination) -> dict[str, Any]:
    if not examined.films:
        return {}
    sides = {side: [getattr(film, side) for film in examined.films] for side in ("width", "height")}
    spread = {side: {"least": min(s), "median": int(np.median(s)), "most": max(s)} for side, s in sides.items()}
    aspects = np.array(sides["width"]) / np.array(sides["height"])
    names = zip(("least", "median", "most"), (aspects.min(), np.median(aspects), aspects.max()), strict=True)
    return {**spread, "width_by_height": {name: round(float(value), 3) for name, value in names}}


def _shown(examined: Examination, finding: Finding) -> Sequence[Mapping[str, Any]]:
    """Return the first examples of a finding with pictures, and what a person must know of each film."""
    parts = dict(zip(examined.dataset.images.tolist(), examined.parts.tolist(), strict=True))
    known = {example.image: example for example in examined.listed.examples}
    return [
        {
            "caption": caption,
            "films": [
                {
                    "image": image,
                    "picture": thumbnail(examined.listed.root / image) if image in parts else None,
                    "label": "positive" if known[image].label else "negative",
                    "group": known[image].group,
                    "part": parts.get(image, ""),
                }
                for image in together[:SHOWN]
            ],
        }
        for together, caption in zip(
            finding.images[:SHOWN], finding.captions[:SHOWN] or ("",) * len(finding.images[:SHOWN]), strict=True
        )
    ]
