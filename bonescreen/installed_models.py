"""The model packages that are installed here, and the configured one."""

from typing import Any

from xray.errors import PackageError
from xray.settings import Settings


def list_models(settings: Settings) -> list[dict[str, Any]]:
    """Describe the installed model packages and the configured one, as `--json` writes them."""
    from xray.network.package import installed_packages, load_package

    installed = installed_packages()
    listed = []
    for name in installed if settings.model in installed else [settings.model, *installed]:
        entry: dict[str, Any] = {"name": name, "in_use": name == settings.model, "problem": None}
        try:
            package = load_package(name)
        except PackageError as error:
            listed.append({**entry, "problem": str(error)})
            continue
        card = package.card
        about = {"version": card.version, "finding": card.finding, "body_parts": list(card.body_parts)}
        listed.append({**entry, **about, "digest": package.digest, "path": str(package.path)})
    return listed
