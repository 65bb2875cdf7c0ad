"""How unlike the training images an image is: a Mahalanobis distance of its features, as a layer of the network.

How its weights are fitted, and the threshold is chosen: `training.fit.distance`.
"""

from typing import Any, Literal

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="bonescreen")
class FeatureDistance(keras.layers.Layer):  # type: ignore[misc]
    """The distance of globally average-pooled features from those of the training images.

    Each feature is standardised, the features are projected on their first principal components, and each projection is
    divided by its deviation. The distance is the root mean square of two numbers: the root mean square of these
    projections, and the length of what the components leave over, divided by its own root mean square. Both are about 1
    for an image like the training images. It is a Mahalanobis distance [1]_ with one variance for all that the
    components leave over, in which that counts as much as all components together.

    The layer computes in float32 under every dtype policy.

    Parameters
    ----------
    components : int
        Number of principal components.
    data_format : {"channels_last", "channels_first"}
        Layout of the input feature map.

    References
    ----------
    .. [1] Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
       NeurIPS 2018, arXiv:1807.03888.
    """

    def __init__(
        self, components: int, data_format: Literal["channels_last", "channels_first"] = "channels_last", **kwargs: Any
    ) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.components = components
        self.data_format = data_format

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Create the weights for a feature map of this shape; they are fitted, never trained by gradients."""
        channels = shape[1] if self.data_format == "channels_first" else shape[-1]

        def weight(name: str, *sides: int | None) -> Any:
            return self.add_weight(shape=sides, initializer="zeros", trainable=False, name=name)

        self.mean = weight("mean", channels)
        # One divided by each feature's standard deviation.
        self.scale = weight("scale", channels)
        # Orthonormal columns.
        self.basis = weight("basis", channels, self.components)
        # One divided by the deviation along each component, and by that of what is left over.
        self.basis_scale = weight("basis_scale", self.components)
        self.rest_scale = weight("rest_scale", 1)

    def call(self, feature_map: Any) -> Any:
        """Compute distances.

        Parameters
        ----------
        feature_map : tensor, (N, h, w, C) or (N, C, h, w)
            The backbone's last feature map, or the one that a finer map begins with.

        Returns
        -------
        tensor of float32, (N,)
            At least 0.
        """
        spatial = (2, 3) if self.data_format == "channels_first" else (1, 2)
        standardised = (ops.mean(feature_map, axis=spatial) - self.mean) * self.scale
        along = ops.matmul(standardised, self.basis)
        # As the basis is orthonormal; rounded, it may leave less than nothing.
        left = ops.maximum(ops.sum(standardised * standardised, axis=-1) - ops.sum(along * along, axis=-1), 0.0)
        along, rest = along * self.basis_scale, ops.sqrt(left) * self.rest_scale
        return ops.sqrt((ops.sum(along * along, axis=-1) / self.components + rest * rest) / 2.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of :meth:`__init__`, for Keras to make the layer again."""
        return {**super().get_config(), "components": self.components, "data_format": self.data_format}
