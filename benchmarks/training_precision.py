"""How fast a recipe's trainable layers train in each precision on this machine's CPU, and how far their losses differ.

    python -m benchmarks.training_precision fracture --rounds 3

Each precision runs in a process of its own, in turn in each round: float32; float32 with oneDNN's bfloat16 math mode,
which needs AMX; and Keras' ``mixed_bfloat16``. All start from the same weights and see the same random features, so
that after the same steps their losses can be compared.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import date

WARM_UP, STEPS = 2, 6
PRECISIONS = {
    "float32": ("float32", {}),
    "float32, bfloat16 math": ("float32", {"TF_SET_ONEDNN_FPMATH_MODE": "BF16"}),
    "mixed_bfloat16": ("mixed_bfloat16", {}),
}


def main() -> None:
    """Run the benchmark, or one precision of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--policy", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.policy:
        print(json.dumps(measure(chosen.recipe, chosen.policy)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in PRECISIONS}
    for _ in range(chosen.rounds):
        for name, (policy, environment) in PRECISIONS.items():
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.training_precision", chosen.recipe, "--policy", policy],
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{chosen.recipe}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, {date.today()}\n")
    print("| precision | ms an image, median | least to most | time to float32's, median | loss after the same steps |")
    print("|---|---|---|---|---|")
    plain = [each["milliseconds"] for each in found["float32"]]
    for name, rounds in found.items():
        times = [each["milliseconds"] for each in rounds]
        ratio = statistics.median(one / other for one, other in zip(times, plain, strict=True))
        spread = f"{min(times):.1f} to {max(times):.1f}"
        print(f"| {name} | {statistics.median(times):.1f} | {spread} | {ratio:.2f} | {rounds[0]['loss']:.4f} |")


def measure(name: str, policy: str) -> dict[str, float]:
    """Train some steps, and return the time of an image in milliseconds and the last loss."""
    import keras
    import numpy as np

    from training.fit.learner import Learner
    from training.fit.location_loss import LocationLoss
    from training.fit.optimizer import make_optimizer
    from training.recipes import find_recipe

    keras.config.set_dtype_policy(policy)
    recipe = find_recipe(name)
    keras.utils.set_random_seed(recipe.seed)
    learner, stage = Learner(recipe, None), recipe.stages[-1]
    classifier = learner.classifier(stage)
    labels = keras.losses.BinaryCrossentropy(from_logits=True)
    losses = labels if recipe.pyramid is None else [labels, LocationLoss()]
    classifier.compile(make_optimizer(learner, stage, STEPS * recipe.batch_size), loss=losses)
    rng = np.random.default_rng(0)
    features = rng.gamma(1.0, 1.0, (recipe.batch_size, *classifier.input_shape[1:])).astype(np.float32)
    truth = (np.arange(recipe.batch_size) % 2).astype(np.float32)[:, None]
    targets = np.zeros((recipe.batch_size, *learner.map_shape), np.float32)
    targets[truth[:, 0] > 0, 0, 0] = 1
    expected = truth if recipe.pyramid is None else (truth, targets)
    for _ in range(WARM_UP):
        loss = classifier.train_on_batch(features, expected)
    start = time.perf_counter()
    for _ in range(STEPS):
        loss = classifier.train_on_batch(features, expected)
    seconds = time.perf_counter() - start
    return {"milliseconds": 1000 * seconds / STEPS / recipe.batch_size, "loss": float(np.ravel(loss)[0])}


if __name__ == "__main__":
    main()
