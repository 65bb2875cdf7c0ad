"""An archive that does not answer, with a real worker: it keeps no other archive waiting."""

import os
import subprocess
import sys
from pathlib import Path

from db.migrate import upgrade
from db.run_queries import RunState, run_summary
from db.session import Database
from producer.scan import model_version, scan_archive
from producer.source import Source
from producer.transport import Transport
from tests.archives import png
from tests.awaiting import await_that
from tests.broker import TcpBroker
from tests.worker.blocked_files import blocked
from xray.message import queue_name
from xray.network.package import ModelPackage
from xray.vocabulary import Precision

WORKER = """
from functools import partial
from worker import app, batch
from worker.__main__ import main
from worker.watchdog import start_watchdog
app.start_watchdog = partial(start_watchdog, timeout_seconds=4.0)
batch.ANSWER_SECONDS = 1.0
main()
"""


def test_a_run_whose_archive_does_not_answer_keeps_no_later_run_waiting(
    tmp_path: Path, tiny_package: ModelPackage, broker: TcpBroker
) -> None:
    database = Database(f"sqlite:///{tmp_path / 'bonescreen.db'}")
    upgrade(database)
    model = model_version(tiny_package, Precision.FP32)
    runs = {}
    # Many batches, so that some of them always wait.
    for name, images in (("dead", 200), ("alive", 4)):
        for number in range(images):
            file = tmp_path / name / f"study{number:03}" / "image.png"
            file.parent.mkdir(parents=True)
            file.write_bytes(png(number))
        runs[name] = scan_archive(database, name, Source(tmp_path / name), model, batch_size=4).run_id
    environ = {
        "PATH": os.environ["PATH"],
        "BONESCREEN_HOME": str(tmp_path),
        "BONESCREEN_BROKER_URL": broker.url,
        "BONESCREEN_MODEL": str(tiny_package.path),
        "BONESCREEN_ARCHIVES": ",".join(f"{name}={tmp_path / name}" for name in runs),
        "OMP_NUM_THREADS": "1",
    }
    transport = Transport(broker.url)
    for _ in range(100):
        transport.send(queue_name(tiny_package.digest, Precision.FP32), runs["dead"])
    transport.close()
    log = tmp_path / "worker.log"
    with blocked(sorted((tmp_path / "dead").rglob("*.png"))), log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", WORKER], env=environ, stdout=output, stderr=output)
        try:
            await_that(
                lambda: run_summary(database, runs["alive"]).state is RunState.DONE, 60, "the other is done", patience=2
            )
        finally:
            process.kill()
            process.wait()
    assert "its archive does not answer; this process ends" in log.read_text()
    assert run_summary(database, runs["dead"]).processed == 0
    database.close()
