"""Tables of what `bonescreen bench` measured, for a terminal and for ``docs/performance.md``.

python -m bonescreen.bench.report bench.json > docs/performance.md
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bonescreen.bench.options import SCHEMA
from xray.errors import BonescreenError, UsageError
from xray.network.package import ModelPackage, load_package
from xray.settings import DEFAULT_MODEL
from xray.vocabulary import Precision

BUSY = 0.25
"""A machine whose load was more than this share of its CPUs before the benchmark had other work."""


@dataclass(frozen=True)
class Section:
    """One table, as `print_table` takes it, and what is said below it."""

    title: str
    titles: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def sections(report: Mapping[str, Any]) -> list[Section]:
    """Return the tables of a report; the machine's comes first."""
    makers: dict[str, Callable[[Any], list[Section]]] = {
        "end_to_end": _end_to_end,
        "engine": _engine,
        "first_result": _first_result,
        "decode": _decode,
        "scan": _scan,
        "queries": _queries,
        "ledger": _ledger,
    }
    found = [_machine(report)]
    for part, maker in makers.items():
        if part in report:
            found += maker(report[part])
    return found


def _machine(report: Mapping[str, Any]) -> Section:
    machine, model, load = report["machine"], report["model"], report["load"]
    libraries = ", ".join(f"{name} {number}" for name, number in machine["libraries"].items())
    rows = [
        ("date", f"{report['date'][:10]}, {report['rounds']} rounds"),
        ("processor", f"{machine['processor']}, {machine['cpus']} CPUs"),
        ("instructions", " ".join(machine["flags"]) or "unknown"),
        ("memory", f"{machine['memory_gb']} GB"),
        ("system", f"{machine['system']}, Python {machine['python']}"),
        ("libraries", libraries),
        ("model", f"{model['name']} {model['version']}"),
        ("load", f"{load['before']} before, {load['after']} after (processes that run or wait to)"),
    ]
    if "data" in report:
        rows.append(("radiographs", report["data"]))
    busy = load["before"] > BUSY * machine["cpus"]
    notes = ["Other processes worked on this machine: compare within a table, and expect more from an idle one."]
    return Section("Machine", ("", ""), rows, notes if busy else ())


def _end_to_end(found: Mapping[str, Any]) -> list[Section]:
    ways = [
        (
            name,
            _spread(way["images_per_second"]),
            _spread(way["core_milliseconds"], 0),
            _spread(way["busy_percent"], 0),
            _spread(way["machine_idle_percent"], 0),
        )
        for name, way in found["ways"].items()
    ]
    ways += [(name, reason, "", "", "") for name, reason in found["not_measured"].items()]
    ratios = [
        (f"{each['of']} : {each['to']}", _spread(each["rate"], 2), _spread(each["core_milliseconds"], 2))
        for each in found["ratios"]
    ]
    beside = [
        (precision, _spread(each["other_threads"]), _spread(each["difference"]))
        for precision, each in found["beside_inference"].items()
    ]
    command = found["command"]
    notes = [
        f"{found['images']} images in a round (the notebook way: fewer). bonescreen: the worker's pipeline, in a "
        "process of its own, from files to rows of a new SQLite database, without its start. busy: the process's share "
        "of the CPUs' time; idle: the whole machine's share without work.",
        f"bonescreen screen itself, {found['fastest']}, {found['images']} images in a new home: "
        f"{_spread(command['images_per_second'])} images/s by its worker's log; "
        f"{_spread(command['seconds'])} s from start to end, in which it starts, loads the model and prints all.",
    ]
    return [
        Section("From files to results", ("way", " images/s", " core-ms", " busy %", " idle %"), ways, notes),
        Section(
            "How many times as fast, in the same round",
            ("", " by images/s", " by core-ms"),
            ratios,
            [
                "By core-ms: images for the same CPU time. Where other processes take CPUs, it is the more reliable "
                "one, but says nothing of CPUs that a way leaves idle."
            ],
        ),
        Section(
            "Core-milliseconds of an image beside inference",
            ("precision", " in other threads", " more than the bare engine"),
            beside,
            [
                "In other threads: CPU time of the pipeline's threads that are not the network library's. More than "
                "the bare engine: CPU time of the whole pipeline minus that of the engine on decoded images, so with "
                "what the two slow each other down and the noise of both."
            ],
        ),
    ]


def _engine(found: Mapping[str, Any]) -> list[Section]:
    rows = [
        (
            precision + (" (auto)" if precision == found["fastest"] else ""),
            _spread(each["images_per_second"]),
            _spread(each["core_milliseconds"], 0),
            _spread(each["cam_percent"]),
            _spread(each["head_and_cam_percent"]),
        )
        for precision, each in found["precisions"].items()
    ]
    titles = ("precision", " images/s", " core-ms", " CAM %", " head + CAM %")
    return [
        Section(
            "The network alone",
            titles,
            rows,
            [
                f"{found['images']} decoded images. CAM: the share of CPU time saved by a graph without CAMs; "
                "head + CAM: by a graph that ends at the pooled features. Below zero: no faster without."
            ],
        ),
        Section(
            f"By forward batch and streams, {found['fastest']}",
            ("", " images/s"),
            [(name, _spread(rates)) for name, rates in found["batches"].items()],
            ["The engine runs single images on as many streams as it has threads."],
        ),
    ]


def _first_result(found: Mapping[str, Any]) -> list[Section]:
    rows = [
        ("to the study's line", _spread(found["seconds_to_result"])),
        ("to the end of the command", _spread(found["seconds"])),
    ]
    title = f"Seconds from `bonescreen screen` of one image in a new home, {found['precision']}"
    return [Section(title, ("", " s"), rows)]


def _decode(found: Mapping[str, Any]) -> list[Section]:
    parts = ("read", "hash", "decode", "preprocess", "total")
    rows = [
        (name, *(f"{cost[part]:.2f}" for part in parts), f"{cost['megabytes']:.2f}") for name, cost in found.items()
    ]
    return [
        Section(
            "Core-milliseconds of an image before inference, by format",
            ("format", *(f" {part}" for part in parts), " MB"),
            rows,
            ["Medians over files and rounds, in one thread."],
        )
    ]


def _scan(found: Mapping[str, Any]) -> list[Section]:
    rows = [
        (
            f"{dialect}, {name}",
            f"{scan['images_per_second']:,}",
            f"{scan['images'] / max(scan['cpu_seconds'], 0.001):,.0f}",
            f"{scan['seconds']:.1f}",
            f"{scan['peak_rss_mb']:.0f}",
        )
        for dialect, scans in found.items()
        if dialect != "images"
        for name, scan in scans.items()
    ]
    titles = ("", " images/s", " a CPU second", " s", " peak RSS MB")
    return [Section(f"The producer: scans of {found['images']:,} images", titles, rows)]


def _queries(found: Mapping[str, Any]) -> list[Section]:
    return [
        Section(
            f"Queries of {size['images']:,} images and {size['studies']:,} studies on {_name(dialect)}, milliseconds",
            ("operation", " median", " p95", " longest lock"),
            [
                (each["operation"], *(f"{each[name]:,.1f}" for name in ("median", "p95", "longest_lock")))
                for each in size["operations"]
            ],
            [f"{size['bytes_per_image']:,} bytes an image in the database, with indexes and maps."],
        )
        for dialect, size in found.items()
    ]


def _ledger(found: Mapping[str, Any]) -> list[Section]:
    counts = next(iter(found.values()))["batches_per_second"]
    rows = [
        (f"{_name(dialect)}", *(f"{rate:,.0f}" for rate in each["batches_per_second"].values()))
        for dialect, each in found.items()
    ]
    first = next(iter(found.values()))
    return [
        Section(
            "Batches a second of the ledger, by workers, with a stub engine",
            ("database", *(f" {number}" for number in counts)),
            rows,
            [
                f"The stub decodes and infers nothing. A batch is of {first['images_in_a_batch']} images, stored in "
                f"two parts, beside {first['images']:,} images that are done. Workers and database share the CPUs."
            ],
        )
    ]


def _spread(values: Mapping[str, Any], digits: int = 1) -> str:
    digits = 2 if digits and abs(values["median"]) < 1 else digits
    return f"{values['median']:.{digits}f} ({values['least']:.{digits}f}-{values['most']:.{digits}f})"


def _name(dialect: str) -> str:
    return {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[dialect]


# -- the page ------------------------------------------------------------------------------------------------------

INTRODUCTION = """\
# Performance

<!-- Made by `python -m bonescreen.bench.report FILE.json... > docs/performance.md`, with its texts. -->

What `bonescreen bench` measured, and how to read it. What follows from it for large archives: [scaling.md](scaling.md).

```sh
bonescreen bench --json bench.json
```

- **Settings take turns in rounds**, each in a process of its own, as a machine's speed changes while one measures. A
  number is the median over the rounds, with the range in brackets. A **ratio** is that of two settings in the same
  round: it says more than two numbers that were measured one after the other.
- **notebook way**: one image at a time, Keras `predict`, then Grad-CAM with a `GradientTape`. **tf.data + predict**: a
  careful script, decoding in parallel, batches of 16, the next ones prepared meanwhile, and no maps. Both have the
  same network, weights and images as bonescreen, which also makes a class activation map (CAM) of each image and
  stores it all.
- **bare engine**: the network on images in memory that are decoded already: the limit of what screening can reach.
- **auto**: the precision that a run gets on the machine if `BONESCREEN_PRECISION` is not set.
- **core-milliseconds** (core-ms): CPU time, which is what one core would need, however many work.

Not measured: processors with AMX (bfloat16 in hardware), and GPUs; none was at hand. Reported earlier, on two cores
with AMX, of an earlier model and pipeline: the channels-first graph alone 37 images/s in `fp32` and 147 in `bf16`,
`tf.data` + `predict` 23.6, the notebook way 0.63. The numbers of one machine are no promise for another: run the
command on yours.
"""


def performance_page(reports: Sequence[Mapping[str, Any]], package: ModelPackage) -> str:
    """Return the text of ``docs/performance.md``.

    Parameters
    ----------
    reports : sequence of dict
        What `run_benchmark` returned, on one machine or several; parts may be spread over files.
    package : ModelPackage
        The model whose precisions are compared.

    Raises
    ------
    UsageError
        A report is of another version.
    """
    lines = [INTRODUCTION, *_precisions(package)]
    for report in reports:
        if report.get("schema") != SCHEMA:
            raise UsageError(f"a report of version {report.get('schema')}; this bonescreen reads version {SCHEMA}")
        machine = report["machine"]
        machine_section, *measured = sections(report)
        lines.append(f"## {machine['processor']}, {machine['cpus']} CPUs, {report['date'][:16].replace('T', ' ')}\n")
        for section in (replace(machine_section, title=""), *measured):
            lines += _markdown(section)
    return "\n".join(lines)


def _precisions(package: ModelPackage) -> Iterator[str]:
    """Write what a precision costs in quality, as the package's card has it, and what its golden outputs allow."""
    yield "## Precisions: quality\n"
    card = package.card
    tolerance = package.golden().tolerance
    rows = [(Precision.FP32.value, "-", "-", "-", "-", f"{tolerance:g}")]
    rows += [
        (
            each.precision,
            f"{each.auroc:.4f} (fp32 {each.fp32_auroc:.4f})",
            f"{100 * each.same_label:.1f}",
            f"{each.mean_difference:.3f}",
            f"{each.largest_difference:.2f}",
            f"{package.golden(Precision(each.precision)).tolerance:g}",
        )
        for each in card.precisions
    ]
    titles = ("precision", " AUROC", " same label %", " logits differ, mean", " at most", " golden tolerance")
    populations = sorted({each.population for each in card.precisions})
    notes = [
        *(
            f"AUROC, labels and logits: {population}, by networks that were not trained on these images."
            for population in populations
        ),
        "Golden tolerance: how far logits and CAMs of the package's golden images may be from the stored ones of that "
        "precision when a worker loads the model; farther, and it does not start.",
    ]
    yield from _markdown(Section(f"{card.name} {card.version}", titles, rows, notes))


def _markdown(section: Section) -> Iterator[str]:
    if section.title:
        yield f"### {section.title}\n"
    yield "| " + " | ".join(title.strip() for title in section.titles) + " |"
    yield "|" + "|".join("---:" if title.startswith(" ") else "---" for title in section.titles) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in section.rows)
    yield ""
    yield from (f"{note}\n" for note in section.notes)


def main() -> None:
    """Write the page of the JSON files that are named."""
    try:
        reports = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
        if not reports:
            raise UsageError("name the JSON files of bonescreen bench")
        sys.stdout.write(performance_page(reports, load_package(DEFAULT_MODEL)))
    except (OSError, ValueError, BonescreenError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
