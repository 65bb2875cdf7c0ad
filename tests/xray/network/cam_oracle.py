"""The head and its class activation map in NumPy: the oracle of ``xray.network.builder.CamHead``."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class HeadWeights:
    """Weights of the head's three dense layers: C channels, two hidden widths, one logit.

    Attributes
    ----------
    kernels : tuple of ndarray
        ``(C, h1)``, ``(h1, h2)`` and ``(h2, 1)``.
    biases : tuple of ndarray
        ``(h1,)``, ``(h2,)`` and ``(1,)``.
    """

    kernels: tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]
    biases: tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]


def head_forward(
    feature_map: NDArray[np.floating], weights: HeadWeights
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    r"""Compute logits, CAMs and the head's effective bias.

    With pooled features :math:`p = \frac{1}{hw}\sum_{ij} A_{ij}`, hidden layers
    :math:`z_1 = p W_1 + b_1`, :math:`z_2 = \mathrm{relu}(z_1) W_2 + b_2` and logit
    :math:`y = \mathrm{relu}(z_2) w_3 + b_3`, the gradient is a product of matrices and masks,

    .. math:: g = \frac{\partial y}{\partial p} = W_1 \, ([z_1 > 0] \circ W_2 \, ([z_2 > 0] \circ w_3)),

    and the map is :math:`\mathrm{cam}_{ij} = \sum_k g_k A_{ijk}`. As
    :math:`\partial y / \partial A_{ijk} = g_k / (hw)`, this is :math:`hw` times Grad-CAM [1]_ before its ReLU. The
    network is linear in :math:`p` between ReLU switches, so :math:`y = \overline{\mathrm{cam}} + b` where the effective
    bias :math:`b` collects the biases that the masks let through.

    Parameters
    ----------
    feature_map : ndarray, (N, h, w, C)
        The backbone's last feature map.
    weights : HeadWeights
        The head.

    Returns
    -------
    logits : ndarray of float64, (N,)
    cams : ndarray of float64, (N, h, w)
        Signed, in units of the logit.
    effective_bias : ndarray of float64, (N,)
        ``logits - cams.mean(axis=(1, 2))``, computed from the biases.

    References
    ----------
    .. [1] Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
       ICCV 2017, arXiv:1610.02391.
    """
    features = feature_map.astype(np.float64)
    kernel_1, kernel_2, kernel_3 = (kernel.astype(np.float64) for kernel in weights.kernels)
    bias_1, bias_2, bias_3 = (bias.astype(np.float64) for bias in weights.biases)
    hidden_1 = features.mean(axis=(1, 2)) @ kernel_1 + bias_1
    hidden_2 = np.maximum(hidden_1, 0) @ kernel_2 + bias_2
    logits = np.maximum(hidden_2, 0) @ kernel_3 + bias_3
    to_hidden_2 = (hidden_2 > 0) * kernel_3.T
    to_hidden_1 = (hidden_1 > 0) * (to_hidden_2 @ kernel_2.T)
    gradient = to_hidden_1 @ kernel_1.T
    cams = np.einsum("nhwc,nc->nhw", features, gradient)
    effective_bias = to_hidden_1 @ bias_1 + to_hidden_2 @ bias_2 + bias_3
    return logits[:, 0], cams, effective_bias


def attended_forward(
    feature_map: NDArray[np.floating],
    finer_map: NDArray[np.floating],
    attention_kernel: NDArray[np.floating],
    weights: HeadWeights,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    r"""Compute logits, CAMs and the effective bias of a head that attends to a finer map.

    The attention of cell :math:`ij` is :math:`a_{ij} = \mathrm{softmax}_{ij}(F_{ij} \cdot u)` [1]_. The attended
    features :math:`\sum_{ij} a_{ij} F_{ij}` are those of a feature map :math:`n a F` of :math:`n` cells by plain
    averages, and so are those of the coarse map, repeated to the finer size. With the attention held fixed the head is
    :func:`head_forward` on these maps side by side.

    Parameters
    ----------
    feature_map : ndarray, (N, h, w, C)
        The backbone's last feature map.
    finer_map : ndarray, (N, s h, s w, D)
        The finer map.
    attention_kernel : ndarray, (D, 1)
        The vector ``u``.
    weights : HeadWeights
        The head, on ``2 C + D`` channels.

    Returns
    -------
    logits : ndarray of float64, (N,)
    cams : ndarray of float64, (N, s h, s w)
        Signed, in units of the logit.
    effective_bias : ndarray of float64, (N,)
        As :func:`head_forward`.

    References
    ----------
    .. [1] Ilse, Tomczak and Welling, "Attention-based Deep Multiple Instance Learning", ICML 2018, arXiv:1802.04712.
    """
    fine = finer_map.astype(np.float64)
    cells = fine @ attention_kernel.astype(np.float64)
    exponent = np.exp(cells - cells.max(axis=(1, 2), keepdims=True))
    attention = exponent / exponent.sum(axis=(1, 2), keepdims=True)
    scale = fine.shape[1] // feature_map.shape[1]
    repeated = feature_map.astype(np.float64).repeat(scale, axis=1).repeat(scale, axis=2)
    count = fine.shape[1] * fine.shape[2]
    maps = [repeated, count * attention * fine, count * attention * repeated]
    return head_forward(np.concatenate(maps, axis=-1), weights)
