"""The parts of the benchmark: each measures one thing and returns what the JSON says of it."""

import importlib.util
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from bonescreen.bench import ledger
from bonescreen.bench.command import screen_folder
from bonescreen.bench.decoding import make_files
from bonescreen.bench.decoding import measure as measure_decoding
from bonescreen.bench.machine import describe_machine, load_average
from bonescreen.bench.options import SCHEMA, Options, Part
from bonescreen.bench.radiographs import make_radiographs
from bonescreen.bench.scanning import measure_scans
from bonescreen.bench.turns import Contender, Turn, play_rounds, spread
from xray.cpus import usable_cpus
from xray.errors import DatabaseOutage
from xray.images.preprocessing import Preprocessing
from xray.network.package import ModelPackage
from xray.network.precision import choose_precision, cpu_flags, fast_precisions, served_precisions
from xray.vocabulary import Precision

ENGINE_IMAGES = 64
NOTEBOOK_IMAGES = 8
DECODED_IMAGES = 12
WORKERS = (1, 2, 4, 8)

NOTEBOOK, PREDICT = "notebook way", "tf.data + predict"
KERAS_WAYS = {"notebook": (NOTEBOOK, NOTEBOOK_IMAGES), "predict": (PREDICT, None)}


def run_benchmark(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure the parts; return what the JSON holds.

    Parameters
    ----------
    options : Options
    say : callable
        Called with what is done now.

    Raises
    ------
    UsageError
        The folder of radiographs holds none.
    EngineOutage
        A process of the benchmark failed.
    """
    package, parts = options.package, options.parts
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": describe_machine(),
        "model": {"name": package.card.name, "version": package.card.version, "digest": package.digest[:12]},
        "rounds": options.rounds,
        "load": {"before": load_average()},
    }
    with tempfile.TemporaryDirectory(prefix="bonescreen-bench-") as folder:
        work = Path(folder)
        images = work / "images"
        images.mkdir()
        if {Part.END_TO_END, Part.DECODE, Part.FIRST_RESULT} & set(parts):
            say("making radiographs")
            paths, report["data"] = make_radiographs(options.data, images, options.screened)
        if Part.ENGINE in parts:
            report["engine"] = _engine(options, work, say)
        if Part.END_TO_END in parts:
            report["end_to_end"] = _end_to_end(options, work, images, say)
        if Part.DECODE in parts:
            say("decoding")
            report["decode"] = _decode(options, work, images)
        if Part.FIRST_RESULT in parts:
            report["first_result"] = _first_result(options, work, paths[0], say)
        if Part.SCAN in parts:
            report["scan"] = {"images": options.images}
            for dialect, new_database in _databases(options.database):
                say(f"scanning {options.images:,} images into {dialect}")
                with new_database() as url:
                    measured = measure_scans(options.images, url)
                report["scan"][dialect] = {
                    name: {**asdict(scan), "images_per_second": round(scan.images_per_second)}
                    for name, scan in measured.items()
                }
        if {Part.QUERIES, Part.LEDGER} & set(parts):
            report |= _ledger(options, work, say)
    report["load"]["after"] = load_average()
    return report


# -- the network and the pipeline ----------------------------------------------------------------------------------


def best_precision(package: ModelPackage) -> Precision:
    """Return the precision that ``auto`` takes on this machine's processor."""
    return choose_precision(package, "auto", fast_precisions(cpu_flags()))


def _contender(
    options: Options, work: Path, kind: str, precision: Precision, count: int, images: Path, name: str
) -> Any:
    arguments = [kind, str(options.package.path), precision, str(count), str(images), name]
    environment = {"BONESCREEN_BENCH_CACHE": str(work / "graphs")}
    return partial(Contender, "bonescreen.bench.screening", arguments, environment)


def _engine(options: Options, work: Path, say: Callable[[str], None]) -> dict[str, Any]:
    precisions = served_precisions(options.package, "openvino", "auto")
    count = min(ENGINE_IMAGES, options.screened)
    contenders = {}
    for precision in precisions:
        contenders[f"{precision}, bare engine"] = _contender(options, work, "engine", precision, count, work, precision)
        contenders[f"{precision}, parts of the graph"] = _contender(
            options, work, "cam", precision, count, work, precision
        )
    best = best_precision(options.package)
    # A multiple of each forward batch, as nothing is padded here.
    contenders["forward batches"] = _contender(options, work, "batches", best, ENGINE_IMAGES, work, best)
    played = play_rounds(contenders, options.rounds, say)
    found: dict[str, Any] = {"images": count, "fastest": best, "precisions": {}, "batches": {}}
    for name in played[0]:
        if name.startswith(f"{best} batch "):
            found["batches"][name.removeprefix(f"{best} ")] = spread(turns[name].rate for turns in played)
    for precision in precisions:
        whole, logits, features = (
            [turns[f"{precision} {part}"].cpu_seconds for turns in played] for part in ("whole", "logits", "features")
        )
        found["precisions"][precision] = {
            "images_per_second": spread(turns[precision].rate for turns in played),
            "core_milliseconds": spread(turns[precision].core_milliseconds for turns in played),
            "cam_percent": spread(100 * (1 - b / a) for a, b in zip(whole, logits, strict=True)),
            "head_and_cam_percent": spread(100 * (1 - b / a) for a, b in zip(whole, features, strict=True)),
        }
    return found


def _end_to_end(options: Options, work: Path, images: Path, say: Callable[[str], None]) -> dict[str, Any]:
    best, count = best_precision(options.package), options.screened
    precisions = dict.fromkeys((best, Precision.FP32))
    contenders: dict[str, Callable[[], Contender]] = {}
    for precision in precisions:
        contenders[f"bonescreen, {precision}"] = _contender(
            options, work, "pipeline", precision, count, images, f"bonescreen, {precision}"
        )
        contenders[f"bare engine, {precision}"] = _contender(
            options, work, "engine", precision, count, images, f"bare engine, {precision}"
        )
    not_measured = {}
    for kind, (name, most) in KERAS_WAYS.items():
        if importlib.util.find_spec("tensorflow") is None:
            not_measured[name] = "needs the tensorflow extra"
            continue
        arguments = [kind, str(options.package.path), str(min(count, most or count)), str(images), name]
        environment = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        contenders[name] = partial(Contender, "bonescreen.bench.keras_scripts", arguments, environment)
    played = play_rounds(contenders, options.rounds, say)
    say("bonescreen screen")
    screened = [screen_folder(images, str(options.package.path), best) for _ in range(options.rounds)]
    return {
        "images": count,
        "fastest": best,
        "ways": {name: _way([turns[name] for turns in played]) for name in contenders},
        "ratios": _ratios(played, precisions),
        "beside_inference": {precision: _beside(played, precision) for precision in precisions},
        "command": {
            "images_per_second": spread(each.rate for each in screened),
            "seconds": spread(each.seconds for each in screened),
        },
        "not_measured": not_measured,
    }


def _way(turns: Sequence[Turn]) -> dict[str, Any]:
    cpus = usable_cpus()
    return {
        "images": turns[0].images,
        "images_per_second": spread(turn.rate for turn in turns),
        "core_milliseconds": spread(turn.core_milliseconds for turn in turns),
        "busy_percent": spread(100 * turn.cpu_seconds / (turn.seconds * cpus) for turn in turns),
        "machine_idle_percent": spread(100 * turn.idle for turn in turns),
    }


def _ratios(played: Sequence[Mapping[str, Turn]], precisions: Mapping[Precision, None]) -> list[dict[str, Any]]:
    pairs = [
        (f"bonescreen, {precision}", other)
        for precision in precisions
        for other in (f"bare engine, {precision}", PREDICT, NOTEBOOK)
    ]
    return [
        {
            "of": one,
            "to": other,
            "rate": spread(turns[one].rate / turns[other].rate for turns in played),
            "core_milliseconds": spread(
                turns[other].core_milliseconds / turns[one].core_milliseconds for turns in played
            ),
        }
        for one, other in pairs
        if other in played[0]
    ]


def _beside(played: Sequence[Mapping[str, Turn]], precision: Precision) -> dict[str, Any]:
    """Return the core-milliseconds of an image beside inference, found in two ways."""
    pipeline, bare = f"bonescreen, {precision}", f"bare engine, {precision}"
    return {
        "other_threads": spread(1000 * turns[pipeline].beside_seconds / turns[pipeline].images for turns in played),
        "difference": spread(turns[pipeline].core_milliseconds - turns[bare].core_milliseconds for turns in played),
    }


# -- the others ----------------------------------------------------------------------------------------------------


def _decode(options: Options, work: Path, images: Path) -> dict[str, Any]:
    folder = work / "formats"
    folder.mkdir()
    files = make_files([options.data or images, images], folder, min(DECODED_IMAGES, options.screened))
    costs = measure_decoding(files, Preprocessing.from_id(options.package.card.preprocessing), options.rounds)
    return {name: asdict(cost) for name, cost in costs.items()}


def _first_result(options: Options, work: Path, image: Path, say: Callable[[str], None]) -> dict[str, Any]:
    folder = work / "one"
    folder.mkdir()
    (folder / image.name).write_bytes(image.read_bytes())
    best = best_precision(options.package)
    screened = []
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}: first result")
        screened.append(screen_folder(folder, str(options.package.path), best))
    return {
        "precision": best,
        "seconds_to_result": spread(each.seconds_to_result for each in screened),
        "seconds": spread(each.seconds for each in screened),
    }


def _ledger(options: Options, work: Path, say: Callable[[str], None]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    workers = WORKERS if Part.LEDGER in options.parts else ()
    # What the workers process, so many each second: enough, and not so much that building it takes longest.
    waiting = min(max(options.images, 20_000), 300_000) if workers else 0
    seconds = 1.0 if options.images < 200_000 else 4.0
    repeats = 10 if Part.QUERIES in options.parts else 0
    for dialect, new_database in _databases(options.database):
        say(f"a database of {options.images:,} images on {dialect}")
        with new_database() as url:
            target = url or f"sqlite:///{work}/ledger.db"
            measured = ledger.measure(
                target, options.images, waiting=waiting, repeats=repeats, workers=workers, seconds=seconds
            )
        size = {"images": measured.images, "studies": measured.studies, "bytes_per_image": measured.bytes_per_image}
        if repeats:
            found.setdefault("queries", {})[dialect] = {
                **{name: round(value) for name, value in size.items()},
                "operations": [_rounded(asdict(timing)) for timing in measured.queries],
            }
        if workers:
            found.setdefault("ledger", {})[dialect] = {
                **{name: round(value) for name, value in size.items()},
                "engine": "stub",
                "images_in_a_batch": ledger.BATCH_IMAGES,
                "batches_per_second": {
                    each.workers: round(each.batches_per_second, 1) for each in measured.stub_engine
                },
            }
    return found


def _rounded(timing: Mapping[str, Any]) -> dict[str, Any]:
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in timing.items()}


def _databases(server: str | None) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield each kind of database, and what makes an empty one: None stands for a new SQLite file."""
    yield "sqlite", nullcontext
    if server is not None:
        yield "postgresql", partial(_new_database, server)


@contextmanager
def _new_database(server: str) -> Iterator[str]:
    """Create a database on a PostgreSQL server, and drop it at the end."""
    name = f"bonescreen_bench_{uuid.uuid4().hex}"
    url = make_url(server)
    admin = create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    try:
        try:
            with admin.connect() as connection:
                connection.exec_driver_sql(f"CREATE DATABASE {name}")
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", error)).splitlines()[0]
            raise DatabaseOutage(f"no database can be made on {url!r}: {reason}") from error
        try:
            yield url.set(database=name).render_as_string(hide_password=False)
        finally:
            with admin.connect() as connection:
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        admin.dispose()
