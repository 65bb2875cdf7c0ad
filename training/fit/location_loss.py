"""The loss of a finer map's cells: which of them have the finding."""

from typing import Any

import keras
from keras import ops

POSITIVE_SHARE = 0.75
"""Weight of a cell with the finding; one without has the rest."""

FOCUS = 2.0


class LocationLoss(keras.losses.Loss):  # type: ignore[misc]
    r"""Focal loss for soft targets, per cell with the finding.

    For a cell with target :math:`t` in [0, 1] and predicted :math:`p = \sigma(z)`,

    .. math:: \alpha \, |t - p|^2 \, (-t \log p - (1 - t) \log(1 - p)),

    with :math:`\alpha = 0.75` where :math:`t > 0` and 0.25 elsewhere: the focal loss [1]_ in its form for soft targets
    [2]_. As in [1]_, the sum over a batch is divided by its sum of targets, and not by its cells, as nearly all of them
    are easy.

    References
    ----------
    .. [1] Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002.
    .. [2] Li et al., "Generalized Focal Loss", NeurIPS 2020, arXiv:2006.04388.
    """

    def call(self, targets: Any, logits: Any) -> Any:
        """Return the loss of each image, ``(N,)``; their mean is the batch's loss.

        Parameters
        ----------
        targets : tensor of float, (N, h, w)
            In [0, 1].
        logits : tensor of float, (N, h, w)
            Of the cells.
        """
        targets, logits = ops.cast(targets, "float32"), ops.cast(logits, "float32")
        entropy = ops.maximum(logits, 0) - logits * targets + ops.log1p(ops.exp(-ops.abs(logits)))
        weight = ops.where(targets > 0, POSITIVE_SHARE, 1 - POSITIVE_SHARE)
        focal = weight * ops.abs(targets - ops.sigmoid(logits)) ** FOCUS * entropy
        images = ops.cast(ops.shape(targets)[0], "float32")
        return ops.sum(focal, axis=(1, 2)) * images / ops.maximum(1.0, ops.sum(targets))
