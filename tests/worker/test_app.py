"""The Celery parent imports no network library, and its children die with it."""

import subprocess
import sys
from pathlib import Path

from tests.awaiting import await_that
from worker.parent_death import PR_SET_PDEATHSIG
from xray.network.package import ModelPackage

HEAVY = {
    "openvino",
    "keras",
    "tensorflow",
    "jax",
    "torch",
    "xray.network.openvino_graph",
    "xray.network.keras_engine",
    "xray.network.builder",
}

PARENT = """
import os, sys
import worker.__main__
from worker.app import make_app
from xray.network.package import load_package
from xray.settings import read_settings
app = make_app(read_settings(os.environ), load_package(sys.argv[1]), "redis://127.0.0.1:1/0")
app.loader.import_default_modules()
print(*sys.modules)
"""

PARENT_AND_CHILD = """
import os, sys, time
from worker.parent_death import die_with_parent
if os.fork() == 0:
    die_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(600)
os.wait()
"""


def test_the_celery_parent_imports_nothing_heavy_before_the_fork(tiny_package: ModelPackage) -> None:
    command = [sys.executable, "-c", PARENT, str(tiny_package.path)]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert "worker.pipeline" in loaded
    assert loaded & HEAVY == set()


def test_a_child_dies_with_its_parent_at_once() -> None:
    assert PR_SET_PDEATHSIG == 1
    with subprocess.Popen([sys.executable, "-c", PARENT_AND_CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    await_that(lambda: not _lives(child), 5, "the child is gone", patience=1)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
