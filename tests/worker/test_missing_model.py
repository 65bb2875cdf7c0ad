"""A model package that is away while a worker starts: the worker waits for it, and heartbeat and log say so."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from db.heartbeats import list_heartbeats
from db.migrate import upgrade
from db.session import Database
from tests.awaiting import await_that
from tests.broker import TcpBroker
from xray.network.package import ModelPackage


def test_a_worker_whose_model_is_away_says_so_and_starts_once_it_is_back(
    tmp_path: Path, tiny_package: ModelPackage, broker: TcpBroker
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'bonescreen.db'}")
    upgrade(database)
    path = tmp_path / "model"
    environ = {
        "PATH": os.environ["PATH"],
        "BONESCREEN_HOME": str(tmp_path),
        "BONESCREEN_BROKER_URL": broker.url,
        "BONESCREEN_MODEL": str(path),
        "BONESCREEN_LOG_FORMAT": "json",
    }

    def problems() -> list[str]:
        return [beat.problem for beat in list_heartbeats(database) if beat.alive and beat.problem]

    log = tmp_path / "worker.log"
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, "-m", "worker"], env=environ, stdout=output, stderr=output)
    try:
        await_that(problems, 20, "its heartbeat says what it waits for")
        assert problems() == [f"the model cannot be loaded: no model package at {path}"]
        shutil.copytree(tiny_package.path, path)
        await_that(lambda: "ready." in log.read_text(), 60, "the worker is ready")
        assert problems() == []
        first = json.loads(log.read_text().splitlines()[0])
        assert (first["level"], first["message"]) == ("WARNING", f"waiting: no model package at {path}")
    finally:
        process.terminate()
        process.wait(120)
        database.close()
