"""Read docker-compose.yml, .env.example and the Dockerfile; anything unexpected is an error."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent.parent
COMPOSE_FILE = ROOT / "docker-compose.yml"

VARIABLE = re.compile(r"\$\{([A-Z_]+)(?:(:-|:\?)([^{}]*))?\}")


def example_variables() -> dict[str, str]:
    """Return the variables that .env.example sets, and their values."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """Interpolate variables as Compose does, the innermost first; a missing or malformed one is an error."""

    def value(match: re.Match[str]) -> str:
        name, operator, word = match.groups()
        found = variables.get(name, "")
        if operator == ":-":
            return found or word
        if not found:
            raise KeyError(f"{name}: {word or 'not set'}")
        return found

    pieces = []
    for piece in text.split("$$"):
        while (filled := VARIABLE.sub(value, piece)) != piece:
            piece = filled
        assert "$" not in piece, f"no variable that Compose understands: {text}"
        pieces.append(piece)
    return "$".join(pieces)


def strings(tree: object) -> Iterator[str]:
    """Yield all strings in a tree."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from strings(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from strings(value)


def read_compose_file() -> dict[str, Any]:
    """Return the file with its anchors resolved and its variables as written."""
    tree: dict[str, Any] = YAML(typ="safe", pure=True).load(COMPOSE_FILE)
    return tree


@dataclass(frozen=True)
class Image:
    """The entry point and the environment in our image."""

    entrypoint: tuple[str, ...]
    environ: Mapping[str, str]


def read_image() -> Image:
    """Read the stage of the Dockerfile that both images are based on."""
    text = dockerfile().split("\nFROM ")[0]
    entrypoint = re.search(r'^ENTRYPOINT \["(.*)"\]$', text, re.MULTILINE)
    settings = re.search(r"^ENV (.*)$", text, re.MULTILINE)
    assert entrypoint is not None
    assert settings is not None
    return Image(tuple(entrypoint[1].split('", "')), dict(word.split("=", 1) for word in settings[1].split()))


def dockerfile() -> str:
    """Return the Dockerfile's instructions, one a line."""
    text = (ROOT / "Dockerfile").read_text()
    instructions = re.sub(r"\s*\\\n\s*", " ", text)
    return "\n".join(line for line in instructions.splitlines() if line and not line.startswith("#"))


@dataclass(frozen=True)
class Mount:
    """One line of a service's volumes."""

    source: str
    target: str
    read_only: bool

    @classmethod
    def parse(cls, line: str) -> "Mount":
        """Read ``source:target`` or ``source:target:ro``."""
        source, target, *mode = line.split(":")
        assert mode in ([], ["ro"])
        return cls(source, target, bool(mode))


@dataclass(frozen=True)
class Service:
    """One service with its variables filled in."""

    name: str
    raw: Mapping[str, Any]

    @property
    def mounts(self) -> list[Mount]:
        """Its volumes and folders."""
        return [Mount.parse(line) for line in self.raw.get("volumes", [])]

    @property
    def environ(self) -> dict[str, str]:
        """Its own environment."""
        return dict(self.raw.get("environment", {}))

    @property
    def needs(self) -> dict[str, str]:
        """The services it depends on, and on which condition."""
        return {name: needed["condition"] for name, needed in self.raw.get("depends_on", {}).items()}

    def seconds(self, *path: str) -> int:
        """Return a duration that the file gives as ``20s``."""
        value: Any = self.raw
        for key in path:
            value = value[key]
        assert value.endswith("s")
        return int(value[:-1])


def read_services(variables: Mapping[str, str]) -> dict[str, Service]:
    """Return the services in an order in which each comes after what it needs."""

    def filled(tree: Any) -> Any:
        if isinstance(tree, str):
            return interpolate(tree, variables)
        if isinstance(tree, Mapping):
            return {key: filled(value) for key, value in tree.items()}
        return [filled(value) for value in tree] if isinstance(tree, list) else tree

    waiting = {name: Service(name, filled(raw)) for name, raw in read_compose_file()["services"].items()}
    ordered: dict[str, Service] = {}
    while waiting:
        ready = [service for service in waiting.values() if service.needs.keys() <= ordered.keys()]
        assert ready, f"these depend on one another or on missing services: {sorted(waiting)}"
        for service in ready:
            ordered[service.name] = waiting.pop(service.name)
    return ordered
