"""A worker that screens in this process, with a real network, and the archive and database that it works on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from db.migrate import upgrade
from db.session import Database
from producer.scan import model_version, scan_archive
from producer.source import Source
from worker.lease_renewal import LeaseRenewer
from worker.pipeline import BatchWorker
from xray.network.engine import Engine
from xray.network.package import ModelPackage
from xray.settings import Settings, read_settings
from xray.vocabulary import Precision


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'test.db'}")
    upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "clinic"
    folder.mkdir()
    return folder


@pytest.fixture
def lease_renewer(database: Database) -> LeaseRenewer:
    return LeaseRenewer(database, "test:1", "queue", "fp32", parent=1)


@pytest.fixture
def worker(
    database: Database,
    tmp_path: Path,
    root: Path,
    tiny_package: ModelPackage,
    engine: Engine,
    lease_renewer: LeaseRenewer,
    monkeypatch: pytest.MonkeyPatch,
) -> BatchWorker:
    """A worker whose tasks screen one batch each."""
    monkeypatch.setattr("worker.pipeline.TASK_SECONDS", -1.0)
    environ = {"BONESCREEN_HOME": str(tmp_path), "BONESCREEN_ARCHIVES": f"clinic={root}"}
    settings: Settings = read_settings(environ)
    return BatchWorker(
        database, settings, tiny_package, [Precision.FP32], lambda precision: engine, lease_renewer, "test:1"
    )


@pytest.fixture
def scan(database: Database, root: Path, tiny_package: ModelPackage) -> Callable[[int], int]:
    """Scan the archive into batches of the given size and return the run."""

    def scan_into_batches(batch_size: int) -> int:
        model = model_version(tiny_package, Precision.FP32)
        return scan_archive(database, "clinic", Source(root), model, batch_size=batch_size).run_id

    return scan_into_batches


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.pipeline.MAX_GROUP", 2)
