"""Two scripts that people write instead, with the same backbone: contenders of `bonescreen bench`.

``python -m bonescreen.bench.keras_scripts notebook|predict PACKAGE COUNT FOLDER NAME``

`notebook` reads one image at a time, calls ``predict`` and computes Grad-CAM (Selvaraju et al. 2017) with a
``GradientTape``, as tutorials do. `predict` is a careful ``tf.data`` pipeline with ``predict``: decoding in parallel,
batches of 16, the next ones prepared meanwhile, and no maps.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bonescreen.bench.turns import take_turns, timed
from xray.network.package import load_package

BATCH = 16


def notebook(network: Any, size: int, paths: Sequence[Path], name: str) -> Callable[[], Any]:
    """Return the work of the notebook way."""
    import numpy as np
    import tensorflow as tf
    from keras import Model
    from PIL import Image

    taken = network.get_layer("head").input
    # The head of a finer map takes that too: tutorials draw the backbone's last map.
    last_map = taken[0] if isinstance(taken, list) else taken
    with_features = Model(network.inputs, [last_map, network.outputs[0]])

    def act() -> None:
        for path in paths:
            gray = np.asarray(Image.open(path).convert("L").resize((size, size)))[None]
            network.predict(gray, verbose=0)
            with tf.GradientTape() as tape:
                features, logits = with_features(gray)
                score = logits[0]
            gradient = tape.gradient(score, features)
            weights = tf.reduce_mean(gradient, axis=(1, 2))
            # The map that a notebook would draw.
            np.maximum(tf.einsum("nhwc,nc->nhw", features, weights), 0)

    return lambda: {name: timed(len(paths), act)}


def predict(network: Any, size: int, paths: Sequence[Path], name: str) -> Callable[[], Any]:
    """Return the work of `tf.data` and ``predict``."""
    import tensorflow as tf
    from keras import Model

    only_logits = Model(network.inputs, network.outputs[0])

    def load(path: Any) -> Any:
        image = tf.image.decode_jpeg(tf.io.read_file(path), channels=1)
        resized = tf.image.resize(image, (size, size))
        return tf.cast(tf.round(resized[:, :, 0]), tf.uint8)

    files = tf.data.Dataset.from_tensor_slices([str(path) for path in paths])
    data = files.map(load, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE)
    return lambda: {name: timed(len(paths), lambda: only_logits.predict(data, verbose=0))}


def main() -> None:
    """Take turns."""
    kind, path, count, folder, name = sys.argv[1:]
    from xray.network.builder import load_network

    package = load_package(path)
    network = load_network(package)
    paths = sorted(Path(folder).iterdir())[: int(count)]
    ways: Mapping[str, Callable[..., Callable[[], Any]]] = {"notebook": notebook, "predict": predict}
    take_turns(ways[kind](network, package.card.input_size, paths, name))


if __name__ == "__main__":
    main()
