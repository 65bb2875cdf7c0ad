"""The doctor's report: a page with pictures, the same as JSON, and the suggested groups, in one folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader

from training.dataset import Dataset
from training.disk import write_whole
from training.doctor.balance import balance
from training.doctor.duplicates import join_groups
from training.doctor.examined import Examined
from training.doctor.finding import Finding
from training.doctor.pictures import thumbnail
from training.doctor.plots import plot_balance, plot_sizes
from training.doctor.verdict import judge, verdict
from training.sources.tables import table_text
from xray.vocabulary import RESEARCH_NOTICE

PAGE, RECORD, GROUPS = "report.html", "report.json", "groups.csv"
SHOWN = 8
"""Examples of a finding on the page; the record has all."""


@dataclass(frozen=True)
class Report:
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

    examined: Examined
    findings: tuple[Finding, ...]
    groups: Mapping[str, str]

    @classmethod
    def of(cls, examined: Examined, whole: Dataset) -> "Report":
        """Judge what was looked at; `whole` also has the body parts that were left aside, as groups need all images."""
        joined = join_groups(examined.dataset.groups.tolist(), examined.pairs)
        groups = {example.image: joined.get(example.group, example.group) for example in whole.examples}
        return cls(examined, judge(examined), groups)

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
            write_whole(folder / name, lambda file, content=content: file.write(content))  # type: ignore[misc]
        page = self._page().encode("utf-8", "backslashreplace")
        write_whole(folder / PAGE, lambda file: file.write(page))

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


def _sizes(examined: Examined) -> dict[str, Any]:
    if not examined.films:
        return {}
    sides = {side: [getattr(film, side) for film in examined.films] for side in ("width", "height")}
    spread = {side: {"least": min(s), "median": int(np.median(s)), "most": max(s)} for side, s in sides.items()}
    aspects = np.array(sides["width"]) / np.array(sides["height"])
    names = zip(("least", "median", "most"), (aspects.min(), np.median(aspects), aspects.max()), strict=True)
    return {**spread, "width_by_height": {name: round(float(value), 3) for name, value in names}}


def _shown(examined: Examined, finding: Finding) -> Sequence[Mapping[str, Any]]:
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
