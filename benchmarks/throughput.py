"""How many images a second a model package's network makes on OpenVINO, by forward batch and streams.

    python -m benchmarks.throughput --rounds 5

The settings take turns within each round, as the machine's speed changes while one measures. Prints, for each, the
median over the rounds and the range.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from xray.network.openvino_graph import derive_graph
from xray.network.package import load_package
from xray.settings import DEFAULT_MODEL

SETTINGS = ((1, 1), (1, 2), (2, 2), (4, 2), (8, 1), (8, 2), (16, 1))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=32)
    chosen = parser.parse_args()
    import openvino as ov

    package = load_package(chosen.model)
    size = package.card.input_size
    images = np.random.default_rng(0).integers(0, 256, (chosen.images, size, size), np.uint8)
    with tempfile.TemporaryDirectory() as cache:
        graph, _ = derive_graph(package, Path(cache))
        core = ov.Core()
        queues = {}
        for batch, streams in SETTINGS:
            model = core.read_model(graph)
            model.reshape([batch, size, size])
            options = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": str(streams)}
            queues[batch, streams] = ov.AsyncInferQueue(core.compile_model(model, "CPU", options), streams)
        speeds: dict[tuple[int, int], list[float]] = {setting: [] for setting in SETTINGS}
        for round_number in range(chosen.rounds + 1):
            for (batch, streams), queue in queues.items():
                started = time.perf_counter()
                for start in range(0, chosen.images, batch):
                    queue.start_async([images[start : start + batch]])
                queue.wait_all()
                # The first round warms up.
                if round_number:
                    speeds[batch, streams].append(chosen.images / (time.perf_counter() - started))
    print("batch streams  images/s  (least to most)")
    for (batch, streams), seen in speeds.items():
        print(f"{batch:5} {streams:7}  {statistics.median(seen):8.1f}  ({min(seen):.1f} to {max(seen):.1f})")


if __name__ == "__main__":
    main()
