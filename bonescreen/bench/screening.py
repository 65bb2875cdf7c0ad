"""The network alone, and the worker's pipeline from files to rows of a database: contenders of `bonescreen bench`.

``python -m bonescreen.bench.screening engine|cam|batches|pipeline PACKAGE PRECISION COUNT FOLDER NAME``
"""

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bonescreen.bench.turns import Turn, take_turns, timed
from db.migrate import upgrade
from db.run_queries import run_progress
from db.session import Database
from producer.scan import model_version, scan_archive
from producer.source import Source
from worker.lease_renewal import LeaseRenewer
from worker.pipeline import NOTHING_DONE, BatchWorker
from xray.cpus import usable_cpus
from xray.network.open_engine import open_engine
from xray.network.package import ModelPackage, load_package
from xray.settings import read_settings
from xray.vocabulary import Precision

FORWARD_BATCHES = (1, 4, 16)

SLICES = 8
"""The network with and without CAMs take turns within a round, too, as their difference is small."""


def engine(package: ModelPackage, precision: Precision, count: int, cache: Path, name: str) -> Callable[[], Any]:
    """Return the work of the bare engine: images that are decoded already."""
    opened = open_engine(package, "openvino", cache, precision)
    images = _images(package, count)
    return lambda: {name: timed(count, lambda: opened.infer(images))}


def cam(package: ModelPackage, precision: Precision, count: int, cache: Path, name: str) -> Callable[[], Any]:
    """Return the work of three graphs: as it is, with logits alone, and the backbone alone (its pooled features)."""
    import openvino as ov

    queues: dict[str, Any] = {}
    for part in ("whole", "logits", "features"):
        model = _graph(package, precision, cache)
        if part == "logits":
            # Whatever only the CAMs need is no longer part of the graph.
            logits = model.outputs[0].get_node().input(0).get_source_output()
            model = ov.Model([logits], model.get_parameters())
        elif part == "features":
            pooling = next(n for n in reversed(model.get_ordered_ops()) if n.get_type_name() == "ReduceMean")
            model = ov.Model([pooling.output(0)], model.get_parameters())
        queues[part] = _queue(model, precision, usable_cpus())
    images = _images(package, count)

    def act() -> dict[str, Turn]:
        spent = {part: Turn(count, 0.0, 0.0, 0.0, 0.0) for part in queues}
        size = -(-count // SLICES)
        for start in range(0, count, size):
            for part, queue in queues.items():
                turn, before = timed(count, partial(_infer, queue, images[start : start + size], 1)), spent[part]
                seconds, cpu_seconds = before.seconds + turn.seconds, before.cpu_seconds + turn.cpu_seconds
                spent[part] = replace(before, seconds=seconds, cpu_seconds=cpu_seconds)
        return {f"{name} {part}": turn for part, turn in spent.items()}

    return act


def batches_and_streams(
    package: ModelPackage, precision: Precision, count: int, cache: Path, name: str
) -> Callable[[], Any]:
    """Return the work of the whole graph by forward batch and streams."""
    settings = dict.fromkeys((batch, streams) for batch in FORWARD_BATCHES for streams in (1, usable_cpus()))
    queues = {
        (batch, streams): _queue(_graph(package, precision, cache, batch), precision, streams)
        for batch, streams in settings
    }
    images = _images(package, count)
    return lambda: {
        f"{name} batch {batch}, streams {streams}": timed(count, partial(_infer, queue, images, batch))
        for (batch, streams), queue in queues.items()
    }


def _graph(package: ModelPackage, precision: Precision, cache: Path, batch: int = 1) -> Any:
    from xray.network.openvino_graph import derive_graph, read_network

    model = read_network(package, derive_graph(package, cache)[0], precision)
    model.reshape([batch, package.card.input_size, package.card.input_size])
    return model


def _queue(model: Any, precision: Precision, streams: int) -> Any:
    import openvino as ov

    from xray.network.openvino_engine import cpu_options

    options = {**cpu_options(precision, usable_cpus()), "NUM_STREAMS": streams}
    return ov.AsyncInferQueue(ov.Core().compile_model(model, "CPU", options), streams)


def _infer(queue: Any, images: Any, batch: int) -> None:
    for start in range(0, len(images), batch):
        queue.start_async({0: images[start : start + batch]})
    queue.wait_all()


def pipeline(
    package: ModelPackage, precision: Precision, count: int, cache: Path, name: str, images: Path
) -> Callable[[], Any]:
    """Return the work of the worker's pipeline: all images of a folder, into a new SQLite database each time."""
    opened = open_engine(package, "openvino", cache, precision)
    # OpenVINO's threads, of which Python does not know, live as long as it does.
    opened.infer(_images(package, 8))
    library = _other_threads()
    rates: dict[Precision, float] = {}

    def act() -> dict[str, Turn]:
        with tempfile.TemporaryDirectory() as folder:
            settings = read_settings(
                {"BONESCREEN_HOME": folder, "BONESCREEN_ARCHIVES": f"bench={images}", "BONESCREEN_QUIET_SECONDS": "0"}
            )
            database = Database(settings.effective_database_url)
            upgrade(database)
            model = model_version(package, precision)
            scanned = scan_archive(database, "bench", Source(images), model, batch_size=settings.batch_size)
            renewer = LeaseRenewer(database, "bench:1", model.queue, precision, parent=os.getppid())
            worker = BatchWorker(database, settings, package, [precision], lambda _: opened, renewer, "bench:1")
            worker.rates = rates
            renewer.start()
            try:
                turn = timed(count, lambda: _screen(worker, database, scanned.run_id), lambda: _cpu_seconds(library))
            finally:
                renewer.stop()
                database.close()
            return {name: turn}

    return act


def _screen(worker: BatchWorker, database: Database, run_id: int) -> None:
    """Do what Celery does with messages, until nothing is left."""
    while worker.run() != NOTHING_DONE:
        pass
    progress = run_progress(database, run_id)
    if progress.processed != progress.images or progress.failed:
        raise RuntimeError(f"{progress.processed} of {progress.images} images were screened, {progress.failed} failed")


def _images(package: ModelPackage, count: int) -> Any:
    size = package.card.input_size
    return np.random.default_rng(0).integers(0, 256, (count, size, size), np.uint8)


def _other_threads() -> list[int]:
    """Return the threads of this process that Python did not start."""
    known = {thread.native_id for thread in threading.enumerate()}
    return [int(task.name) for task in Path("/proc/self/task").glob("*") if int(task.name) not in known]


def _cpu_seconds(threads: list[int]) -> float:
    # The first number is the nanoseconds on a CPU.
    return sum(int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0]) for thread in threads) / 1e9


def main() -> None:
    """Take turns."""
    kind, path, precision, count, folder, name = sys.argv[1:]
    package, wanted, cache = load_package(path), Precision(precision), Path(os.environ["BONESCREEN_BENCH_CACHE"])
    if kind == "pipeline":
        act = pipeline(package, wanted, int(count), cache, name, Path(folder))
    else:
        makers: Mapping[str, Callable[..., Callable[[], Any]]] = {
            "engine": engine,
            "cam": cam,
            "batches": batches_and_streams,
        }
        act = makers[kind](package, wanted, int(count), cache, name)
    take_turns(act)


if __name__ == "__main__":
    main()
