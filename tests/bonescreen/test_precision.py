"""The precision of a run: chosen once, said everywhere, and never mixed with another."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bonescreen.choose_model import model_for_archive
from db.heartbeats import record_heartbeat
from db.runs import open_run, register_archive, register_model
from db.session import Database
from producer.scan import model_version
from tests.archives import mura_tree
from tests.bonescreen.processes import run
from xray.errors import UsageError
from xray.message import queue_name
from xray.network.package import ModelPackage
from xray.network.precision import computable_precisions, cpu_flags, machine_precisions
from xray.settings import Settings, read_settings
from xray.vocabulary import Precision

FP32, BF16, INT8 = Precision


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of one machine with its own database."""
    return read_settings({"BONESCREEN_HOME": str(tmp_path / "home")})


@pytest.fixture
def cluster(tmp_path: Path) -> Settings:
    """Settings of a machine of a cluster."""
    return read_settings({"BONESCREEN_HOME": str(tmp_path), "BONESCREEN_DATABASE_URL": "postgresql://db/bonescreen"})


def chosen(settings: Settings, database: Database, package: ModelPackage, *, works_here: bool) -> str:
    return model_for_archive(settings, database, package, "clinic", works_here=works_here).precision


def screened(database: Database, package: ModelPackage, precision: Precision) -> None:
    """Have a run of the archive in a precision."""
    archive = register_archive(database, "clinic", "/clinic")
    open_run(database, archive, register_model(database, model_version(package, precision)), 100)


def worker(database: Database, package: ModelPackage, name: str, fast: str, served: str = "") -> None:
    """Have a living worker that computes some precisions fast, and serves the same or others."""
    queues = [queue_name(package.digest, precision) for precision in (served or fast).split()]
    record_heartbeat(database, name, "worker", " ".join(queues), None, None, fast)


def test_one_machine_takes_the_fastest_precision_that_it_has_and_the_package_allows(
    settings: Settings, database: Database, quantized_package: ModelPackage, tiny_package: ModelPackage
) -> None:
    assert chosen(settings, database, quantized_package, works_here=True) == machine_precisions("openvino")[0]
    assert chosen(settings, database, tiny_package, works_here=True) == FP32


def test_an_archive_keeps_the_precision_of_its_first_run(
    settings: Settings, database: Database, quantized_package: ModelPackage
) -> None:
    screened(database, quantized_package, FP32)
    assert chosen(settings, database, quantized_package, works_here=True) == FP32


def test_a_cluster_takes_the_fastest_precision_that_every_worker_computes_fast(
    cluster: Settings, database: Database, quantized_package: ModelPackage
) -> None:
    worker(database, quantized_package, "new:1", "bf16 int8 fp32")
    assert chosen(cluster, database, quantized_package, works_here=False) == BF16
    worker(database, quantized_package, "older:1", "int8 fp32")
    assert chosen(cluster, database, quantized_package, works_here=False) == INT8
    worker(database, quantized_package, "oldest:1", "fp32")
    assert chosen(cluster, database, quantized_package, works_here=False) == FP32


def test_without_a_worker_a_run_is_float32_and_enqueue_says_so(
    cluster: Settings, database: Database, quantized_package: ModelPackage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen(cluster, database, quantized_package, works_here=False) == FP32
    assert "no worker is alive yet, so the run is fp32" in capsys.readouterr().err


def test_workers_that_come_later_do_not_change_a_runs_precision(
    cluster: Settings, database: Database, quantized_package: ModelPackage
) -> None:
    screened(database, quantized_package, BF16)
    worker(database, quantized_package, "older:1", "int8 fp32", served="fp32 bf16 int8")
    assert chosen(cluster, database, quantized_package, works_here=False) == BF16


def test_a_run_is_never_chosen_that_no_living_worker_takes(
    cluster: Settings,
    database: Database,
    quantized_package: ModelPackage,
    tiny_package: ModelPackage,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker(database, quantized_package, "limited:1", "bf16 int8 fp32", served="fp32")
    worker(database, tiny_package, "of another model:1", "bf16 fp32")
    assert chosen(cluster, database, quantized_package, works_here=False) == FP32
    screened(database, quantized_package, INT8)
    assert chosen(cluster, database, quantized_package, works_here=False) == FP32
    assert "clinic was screened in int8, which no worker computes now" in capsys.readouterr().err


def test_a_wanted_precision_that_no_living_worker_takes_is_said(
    tmp_path: Path, database: Database, quantized_package: ModelPackage, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {"BONESCREEN_HOME": str(tmp_path), "BONESCREEN_DATABASE_URL": "postgresql://db/bonescreen"}
    wanted = read_settings({**environ, "BONESCREEN_PRECISION": "int8"})
    worker(database, quantized_package, "old:1", "fp32")
    assert chosen(wanted, database, quantized_package, works_here=False) == INT8
    assert "no worker that is alive computes int8: the run waits until one does" in capsys.readouterr().err


def test_no_framework_is_imported_to_choose_a_precision_where_there_may_be_a_gpu(
    tmp_path: Path, tiny_package: ModelPackage
) -> None:
    (tmp_path / "nvidia0").touch()
    code = f"""
import sys
from pathlib import Path
from xray.network import engine
engine.DEVICES = Path({str(tmp_path)!r})
from worker.app import make_app
from xray.network.package import load_package
from xray.settings import read_settings
make_app(read_settings({{"BONESCREEN_HOME": {str(tmp_path)!r}}}), load_package(Path({str(tiny_package.path)!r})), "redis://x")
print(engine.may_have_gpu(), *({{"tensorflow", "keras", "openvino"}} & set(sys.modules)))
"""
    environ = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_a_precision_in_the_settings_is_taken_or_refused(
    tmp_path: Path, database: Database, quantized_package: ModelPackage, tiny_package: ModelPackage
) -> None:
    environ = {"BONESCREEN_HOME": str(tmp_path), "BONESCREEN_DATABASE_URL": "postgresql://db/bonescreen"}
    wanted = read_settings({**environ, "BONESCREEN_PRECISION": "int8"})
    screened(database, quantized_package, FP32)
    assert chosen(wanted, database, quantized_package, works_here=False) == INT8
    with pytest.raises(UsageError, match="tiny 1 allows fp32"):
        chosen(wanted, database, tiny_package, works_here=False)
    with pytest.raises(UsageError, match="BONESCREEN_PRECISION='half' must be one of auto, fp32, bf16, int8"):
        read_settings({**environ, "BONESCREEN_PRECISION": "half"})


def test_an_archive_is_screened_in_two_precisions_as_two_runs_and_each_says_which(
    tmp_path: Path, environ: dict[str, str], quantized_package: ModelPackage
) -> None:
    lowest = min(computable_precisions(cpu_flags()) - {FP32}, default=FP32)
    root = tmp_path / "archive"
    mura_tree(root, 6)
    environ = {**environ, "BONESCREEN_MODEL": str(quantized_package.path)}
    for precision in (lowest, FP32):
        done = run({**environ, "BONESCREEN_PRECISION": precision}, "screen", root)
        assert done.returncode == 0, done.stderr
        assert f"tiny 1 ({precision})" in done.stdout
    told = json.loads(run(environ, "runs", "--json").stdout)
    assert [each["precision"] for each in told] == [FP32, lowest]
    found = {}
    for number in ("1", "2"):
        listed = csv.DictReader(io.StringIO(run(environ, "results", "--run", number, "--format", "csv").stdout))
        found[number] = {row["study"]: row for row in listed}
    assert {row["precision"] for row in found["1"].values()} == {lowest}
    assert {row["precision"] for row in found["2"].values()} == {FP32}
    assert found["1"].keys() == found["2"].keys()
    for study, row in found["1"].items():
        assert float(row["score"]) == pytest.approx(float(found["2"][study]["score"]), abs=0.1)


def test_verify_checks_every_precision_that_this_machine_computes(
    environ: dict[str, str], quantized_package: ModelPackage
) -> None:
    done = run(environ, "models", "verify", quantized_package.path)
    assert done.returncode == 0, done.stderr
    for precision in computable_precisions(cpu_flags()):
        assert f"The openvino engine gives the golden outputs in {precision}." in done.stdout
    shown = run(environ, "models", "show", quantized_package.path).stdout
    assert "Precisions besides fp32" in shown
