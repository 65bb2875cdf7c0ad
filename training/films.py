"""Which films a model has met, by their content: names and groups change, a file's bytes do not."""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path

from training.dataset import Dataset, Role
from training.sources.tables import read_table, table_text
from xray.errors import UsageError
from xray.package import ModelPackage, file_sha256

FILMS_FILE = "films.csv"
_DIGITS = 32


def film_digests(dataset: Dataset) -> list[str]:
    """Return the first 32 hexadecimal digits of the SHA-256 of each example's file, empty where there is none."""
    return [_file_digest(dataset.root / example.image) for example in dataset.examples]


def met_films(package: ModelPackage) -> Mapping[str, Role]:
    """Return what each film was for when a package was trained, by its digest; empty where the package does not tell.

    Raises
    ------
    UsageError
        If the package's table is wrong.
    """
    if FILMS_FILE not in package.card.files:
        return {}
    table = package.path / FILMS_FILE
    try:
        return {record["sha256"]: Role(record["role"]) for _, record in read_table(table, ("sha256", "role"))}
    except ValueError as error:
        raise UsageError(f"{table}: {error}") from error


def films_table(roles: Iterable[tuple[str, Role]], ancestor: ModelPackage | None) -> bytes:
    """Write the table of a package.

    Parameters
    ----------
    roles : iterable of tuple of str and Role
        Digest and role of the films that it was trained with; a film in two parts counts as learnt from, or else as
        chosen on.
    ancestor : ModelPackage or None
        The package that it began as: what that has learnt, or was chosen on, this one has too.
    """
    learnt = (
        {digest: Role.TRAIN for digest, role in met_films(ancestor).items() if role is not Role.TEST}
        if ancestor
        else {}
    )
    met = {digest: role for digest, role in sorted(roles, key=_weight) if digest}
    return table_text(("sha256", "role"), sorted((met | learnt).items())).encode()


def _weight(film: tuple[str, Role]) -> int:
    return (Role.TEST, Role.VALIDATION, Role.TRAIN).index(film[1])


def _file_digest(path: Path) -> str:
    try:
        found = path.stat()
        return _digest(path, found.st_size, found.st_mtime_ns)
    except OSError:
        return ""


@functools.cache
def _digest(path: Path, size: int, changed: int) -> str:
    """Read a file once, as long as it stays as it is."""
    return file_sha256(path)[:_DIGITS]
