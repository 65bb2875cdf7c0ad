"""Bulk screening of X-ray archives for bone fractures. For research only, not for diagnosis.

>>> import bonescreen
>>> model = bonescreen.load_model("fracture-3")
>>> model.predict("wrist.png").probability  # doctest: +SKIP
0.412

Nothing heavy is imported before the first call.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bonescreen.api import Model, Prediction, load_image, load_model, results

__all__ = ["Model", "Prediction", "load_image", "load_model", "results"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bonescreen import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
