"""Hold a manifest to what it must be: sound line by line, each image once, each study with one label."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator

from db import merge
from db.merge import Entry
from db.scans import Scan
from db.session import Database
from producer.find import Source, await_quiet, root_status
from xray.archives.files import image_status, open_image
from xray.archives.layouts import MANIFEST_NAME
from xray.archives.manifest import Listed, read_manifest, require_sound
from xray.errors import FileFault, UsageError
from xray.vocabulary import Label


def require_manifest(source: Source, pause: Callable[[float], None]) -> None:
    """Read an archive's manifest to its end, when it has been quiet for long enough; `pause` waits so many seconds.

    Raises
    ------
    UsageError
        There is none, it is still being written, or lines are wrong; the text names them.
    ArchiveOutage
        The storage does not answer.
    """
    try:
        _require_quiet(source, pause)
        with open_image(source.root, MANIFEST_NAME) as file:
            listed = require_sound(file)
    except FileFault as fault:
        raise UsageError(
            f"the layout manifest needs a {MANIFEST_NAME} in {source.root}, and that one cannot be read ({fault}); "
            "its columns are study,image[,label,body_part,view,patient]"
        ) from fault
    if listed == 0:
        raise UsageError(f"{MANIFEST_NAME} in {source.root} lists no image; nothing was changed")


def require_unlisted(database: Database, scan: Scan, source: Source, entries: Collection[Entry]) -> None:
    """Refuse images that a manifest lists again, before they are staged."""
    paths = [entry.path for entry in entries]
    repeated = merge.staged_paths(database, scan, paths) | {path for path, n in Counter(paths).items() if n > 1}
    if repeated:
        raise _listed_twice(source, min(repeated))


def require_one_label(database: Database, scan: Scan, source: Source) -> None:
    """Refuse a study that a manifest gives both labels."""
    for study in merge.studies_of_two_labels(database, scan, limit=1):
        raise _two_labels(source, study)


def require_consistent(source: Source) -> None:
    """Refuse what `require_unlisted` and `require_one_label` do, without a database: in memory, for a dry run."""
    images: set[str] = set()
    labels: dict[str, Label] = {}
    for listed in _listed(source):
        if listed.image in images:
            raise _listed_twice(source, listed.image)
        images.add(listed.image)
        label = listed.placed.human_label
        if label is not None and labels.setdefault(listed.placed.study, label) is not label:
            raise _two_labels(source, listed.placed.study)


def _require_quiet(source: Source, pause: Callable[[float], None]) -> None:
    before = _manifest_status(source)
    await_quiet(before[1], source, pause)
    # Half a manifest would have the images of its other half taken for gone.
    if _manifest_status(source) != before:
        raise UsageError(f"{MANIFEST_NAME} in {source.root} is still being written; scan again when it is complete")


def _manifest_status(source: Source) -> tuple[int, int]:
    return root_status(source.root) if source.root.is_file() else image_status(source.root, MANIFEST_NAME)


def _listed_twice(source: Source, image: str) -> UsageError:
    lines = [listed.line for listed in _listed(source) if listed.image == image]
    return UsageError(f"{MANIFEST_NAME} lists {image!r} on lines {_and(lines)}; an image belongs to one study, once")


def _two_labels(source: Source, study: str) -> UsageError:
    lines = {
        listed.placed.human_label: listed.line
        for listed in _listed(source)
        if listed.placed.study == study and listed.placed.human_label is not None
    }
    told = _and(f"{label} on line {line}" for label, line in lines.items())
    return UsageError(f"{MANIFEST_NAME} calls the study {study!r} {told}; a study has one label")


def _listed(source: Source) -> Iterator[Listed]:
    with open_image(source.root, MANIFEST_NAME) as file:
        yield from (row for row in read_manifest(file) if isinstance(row, Listed))


def _and(words: Collection[object] | Iterator[object]) -> str:
    texts = [str(word) for word in words]
    return " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1]))) if texts else "unknown"
