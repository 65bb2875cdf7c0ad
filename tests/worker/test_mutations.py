"""Damaged archives, from scan to results: each image is scored or has a failure reason, and the run ends."""

import io
import tarfile
import tempfile
import zipfile
from contextlib import closing
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from db.migrate import upgrade
from db.run_queries import RunState, run_summary
from db.session import Database
from db.tables import outcomes
from producer.scan import model_version, scan_archive
from producer.source import Source
from tests.archives import image_pixels, png
from tests.dicoms import LOSSLESS, LOSSY, NATIVE, dicom
from worker.lease_renewal import LeaseRenewer
from worker.pipeline import NOTHING_DONE, BatchWorker
from xray.errors import UsageError
from xray.network.engine import Engine
from xray.network.package import ModelPackage
from xray.settings import read_settings
from xray.vocabulary import Layout, Precision, Reason

SHARED = image_pixels(1, 32, 32)
DICOM = [dicom(SHARED, syntax) for syntax in NATIVE.values()] + [
    dicom(SHARED, syntax, stream=encode(SHARED))
    for syntax, encode in (LOSSLESS | LOSSY).values()
    if syntax != LOSSY["jpeg extended"][0]
]


def in_zip(compression: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as container:
        for number in range(4):
            container.writestr(f"study{number // 2}/{number}.png", png(number))
        container.writestr("study3/image.dcm", DICOM[0])
    return file.getvalue()


def in_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as container:
        for number in range(4):
            about = tarfile.TarInfo(f"study{number // 2}/{number}.png")
            about.size = len(png(number))
            container.addfile(about, io.BytesIO(png(number)))
    return file.getvalue()


CONTAINERS = {
    "stored.zip": in_zip(zipfile.ZIP_STORED),
    "deflated.zip": in_zip(zipfile.ZIP_DEFLATED),
    "images.tar": in_tar(),
}
MANIFEST = b"study,image,label,body_part\ns,good.png,positive,HAND\ns,stored.zip/study0/0.png,,\nt,0.dcm,,\n"

BYTES = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)
"""Values at which numbers in headers often fail, or any byte."""

Edit = tuple[float, int, int]
EDITS: st.SearchStrategy[list[Edit]] = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), BYTES, st.integers(1, 4)), max_size=4
)


def mutated(data: bytes, edits: list[Edit], keep: float) -> bytes:
    """Overwrite a few bytes, most of them in the header, and truncate."""
    changed = bytearray(data)
    for place, value, length in edits:
        # The square makes positions near the start, where the header is, more likely.
        at = int(place * place * len(changed))
        changed[at : at + length] = bytes([value]) * min(length, len(changed) - at)
    return bytes(changed[: int(len(changed) * keep)])


KEEP = st.just(1.0) | st.floats(0, 1)


@given(
    files=st.lists(st.tuples(st.sampled_from(range(len(DICOM))), EDITS, KEEP), min_size=4, max_size=12),
    containers=st.lists(st.tuples(st.sampled_from(sorted(CONTAINERS)), EDITS, KEEP), max_size=3),
    manifest=st.none() | st.tuples(EDITS, KEEP),
    layout=st.sampled_from([Layout.AUTO, Layout.DICOM, Layout.FOLDER, Layout.FLAT]),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_archive_of_damaged_files_is_screened_completely_or_refused_with_a_usage_error(
    tiny_package: ModelPackage,
    engine: Engine,
    files: list[tuple[int, list[Edit], float]],
    containers: list[tuple[str, list[Edit], float]],
    manifest: tuple[list[Edit], float] | None,
    layout: Layout,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "clinic"
        root.mkdir()
        (root / "good.png").write_bytes(png(99))
        (root / "good.dcm").write_bytes(DICOM[0])
        for number, (base, edits, keep) in enumerate(files):
            (root / f"{number}.dcm").write_bytes(mutated(DICOM[base], edits, keep))
        for name, edits, keep in containers:
            (root / name).write_bytes(mutated(CONTAINERS[name], edits, keep))
        if manifest is not None:
            (root / "manifest.csv").write_bytes(mutated(MANIFEST, *manifest))
            layout = Layout.MANIFEST
        with closing(Database(f"sqlite:///{folder}/test.db")) as database:
            upgrade(database)
            screen(database, root, layout, tiny_package, engine)


def screen(database: Database, root: Path, layout: Layout, package: ModelPackage, engine: Engine) -> None:
    """Scan and screen an archive in this process, and check that each image has one outcome."""
    try:
        model = model_version(package, Precision.FP32)
        report = scan_archive(database, "clinic", Source(root, layout), model, batch_size=1000)
    except UsageError:
        if layout is not Layout.MANIFEST:
            raise
        return
    environ = {"BONESCREEN_HOME": str(root.parent), "BONESCREEN_ARCHIVES": f"clinic={root}"}
    lease_renewer = LeaseRenewer(database, "test:1", "queue", "fp32", parent=1)
    worker = BatchWorker(
        database, read_settings(environ), package, [Precision.FP32], lambda precision: engine, lease_renewer, "test:1"
    )
    while worker.run() != NOTHING_DONE:
        pass
    summary = run_summary(database, report.run_id)
    assert (summary.state, summary.processed) == (RunState.DONE, summary.images)
    with database.read() as connection:
        rows = connection.execute(select(outcomes.c.reason, outcomes.c.content_id)).all()
    assert all((row.reason is None) != (row.content_id is None) for row in rows)
    assert {row.reason for row in rows} - {None} <= set(Reason)
