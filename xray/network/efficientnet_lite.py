"""EfficientNet-Lite2 in the form of a Keras application, which Keras does not have."""

import math
from typing import Any

import keras
from keras import layers

# Per stage: blocks, kernel size, stride, expansion, output channels; of EfficientNet-B0, before scaling.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_WIDTH, _DEPTH = 1.1, 1.2
_STEM_CHANNELS, _TOP_CHANNELS = 32, 1280


def EfficientNetLite2(  # noqa: N802
    *, include_top: bool = False, weights: str | None = None, input_shape: tuple[int, int, int]
) -> keras.Model:
    """Build EfficientNet-Lite2 without its classifier [1]_.

    It is EfficientNet [2]_ scaled by 1.1 in width and 1.2 in depth, with ReLU6 in the place of swish and without
    squeeze-and-excitation, so that it is fast and keeps its accuracy in INT8. Stem, last stage and top are not scaled.

    Parameters
    ----------
    include_top : bool
        Must be false: there is no classifier.
    weights : str or None
        A Keras weights file, or None for random weights.
    input_shape : tuple of int
        ``(height, width, 3)``.

    Returns
    -------
    keras.Model
        float32 ``(N, height, width, 3)``, see `preprocess_input`, to float32 ``(N, height / 32, width / 32, 1280)``.

    Raises
    ------
    ValueError
        If a classifier or weights to download are asked for, or the weights do not fit.

    References
    ----------
    .. [1] https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    .. [2] Tan and Le, "EfficientNet", ICML 2019, arXiv:1905.11946.
    """
    if include_top:
        raise ValueError("EfficientNetLite2 has no classifier")
    if weights == "imagenet":
        raise ValueError(
            "Keras has no ImageNet weights of EfficientNetLite2: give a file with --weights (docs/training.md says "
            "where to get it)"
        )
    images = layers.Input(input_shape)
    x = layers.Conv2D(_STEM_CHANNELS, 3, 2, "same", use_bias=False, name="stem_conv")(images)
    x = _normalise(x, "stem_bn", activate=True)
    number = 0
    for stage, (blocks, kernel_size, stride, expansion, channels) in enumerate(_STAGES):
        scaled = blocks if stage in (0, len(_STAGES) - 1) else math.ceil(blocks * _DEPTH)
        for block in range(scaled):
            x = _block(x, f"block{number}", kernel_size, stride if block == 0 else 1, expansion, _width(channels))
            number += 1
    x = layers.Conv2D(_TOP_CHANNELS, 1, use_bias=False, name="top_conv")(x)
    model = keras.Model(images, _normalise(x, "top_bn", activate=True), name="efficientnet_lite2")
    if weights is not None:
        model.load_weights(weights)
    return model


def preprocess_input(images: Any, data_format: str | None = None) -> Any:
    """Scale RGB values from [0, 255] to about [-1, 1], as EfficientNet-Lite was trained, in either layout."""
    return (images - 127) / 128


def _block(x: Any, name: str, kernel_size: int, stride: int, expansion: int, channels: int) -> Any:
    """Add an inverted bottleneck (Sandler et al. 2018, arXiv:1801.04381)."""
    shortcut = x
    if expansion > 1:
        x = layers.Conv2D(x.shape[-1] * expansion, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = _normalise(x, f"{name}_expand_bn", activate=True)
    x = layers.DepthwiseConv2D(kernel_size, stride, "same", use_bias=False, name=f"{name}_depthwise_conv")(x)
    x = _normalise(x, f"{name}_depthwise_bn", activate=True)
    x = layers.Conv2D(channels, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = _normalise(x, f"{name}_project_bn")
    if stride == 1 and shortcut.shape[-1] == channels:
        x = layers.Add(name=f"{name}_add")([shortcut, x])
    return x


def _normalise(x: Any, name: str, *, activate: bool = False) -> Any:
    x = layers.BatchNormalization(epsilon=1e-3, name=name)(x)
    return layers.ReLU(6.0, name=f"{name}_relu6")(x) if activate else x


def _width(channels: int) -> int:
    """Scale a number of channels, rounded to a multiple of 8 that is not below 90 % of it."""
    scaled = channels * _WIDTH
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
