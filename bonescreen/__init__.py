"""Bulk screening of X-ray archives for bone fractures. For research only, not for diagnosis.

>>> import bonescreen
>>> model = bonescreen.load_model("fracture-5")
>>> model.predict("wrist.png").probability  # doctest: +SKIP
0.412

Nothing heavy is imported before the first call.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bonescreen.api import Model, Prediction, load_image, load_model, results
    from db.queries import StudyRow
    from xray.errors import BonescreenError, FileFault, PackageError, UsageError

__all__ = [
    "BonescreenError",
    "FileFault",
    "Model",
    "PackageError",
    "Prediction",
    "StudyRow",
    "UsageError",
    "load_image",
    "load_model",
    "results",
]

_ELSEWHERE = {"StudyRow": "db.queries"} | dict.fromkeys(
    ("BonescreenError", "FileFault", "PackageError", "UsageError"), "xray.errors"
)
"""The modules of the names that `bonescreen.api` does not define."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "bonescreen.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
