"""The services of docker-compose.yml, run with their own commands and environments on real servers."""

import base64
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from db.run_queries import RunState, run_summary
from db.session import Database
from tests.archives import image_pixels, mura_tree
from tests.awaiting import await_that
from tests.compose.project import ROOT, example_variables, read_services
from tests.compose.stand_ins import Machine, postgres_image
from tests.debian_packages import require_packages
from tests.orthanc import ask, authorization
from tests.radiographs import radiograph, study_uid
from xray.archives.dicomweb import search
from xray.network.package import ModelPackage
from xray.settings import read_settings

IMAGES = 40
BROKER_PASSWORD = "b" * 48
DATABASE_PASSWORD = "d" * 48
FLOWER_PASSWORD = "f" * 48
ORTHANC_PASSWORD = "o" * 48
PAGES_PASSWORD = "p" * 48


@pytest.fixture
def variables(tmp_path: Path, tiny_package: ModelPackage) -> dict[str, str]:
    """Return what an operator has in .env."""
    return {
        **example_variables(),
        "ARCHIVE": str(tmp_path / "archive"),
        "BROKER_PASSWORD": BROKER_PASSWORD,
        "DATABASE_PASSWORD": DATABASE_PASSWORD,
        "FLOWER_USER": "radiology",
        "FLOWER_PASSWORD": FLOWER_PASSWORD,
        "MODEL": f"/models/{tiny_package.path.name}",
        "MODELS": str(tiny_package.path.parent),
        "BATCH_SIZE": "4",
    }


@pytest.fixture
def machine(tmp_path: Path, variables: dict[str, str]) -> Iterator[Machine]:
    services = {
        name: service
        for name, service in read_services(variables).items()
        if service.raw.get("profiles") != ["orthanc"]
    }
    made = Machine(tmp_path / "machine", services)
    yield made
    made.close()


def test_the_services_screen_an_archive_and_health_checks_notice_when_one_is_stopped(
    machine: Machine, tmp_path: Path
) -> None:
    studies = mura_tree(tmp_path / "archive", IMAGES)
    checked = [name for name, service in machine.services.items() if "healthcheck" in service.raw]
    with postgres_image(machine.services["database"], machine.ports["database"], tmp_path) as database:
        for name, service in machine.services.items():
            for needed, condition in service.needs.items():
                if condition == "service_healthy":
                    await_healthy(machine, needed)
            if name == "pages":
                assert machine.run("cli", "users", "add", "ada", typed=f"{PAGES_PASSWORD}\n").returncode == 0
            if name == "migrate":
                done = machine.run(name)
                assert (done.returncode, done.stderr) == (0, "")
            elif name in checked and name != "database":
                machine.start(name)
        assert_archive_is_screened(machine, studies)
        for name in checked:
            await_healthy(machine, name)
        assert_servers_are_configured(machine)
        for name in reversed(checked):
            database.stop() if name == "database" else machine.stop(name)
            assert not machine.is_healthy(name), f"{name} is stopped"
    assert machine.made_outside_volumes() == []


@pytest.fixture
def with_orthanc(tmp_path: Path, variables: dict[str, str]) -> Iterator[Machine]:
    """A machine whose .env has an Orthanc, as .env.example explains."""
    require_packages("orthanc", "orthanc-dicomweb", "dcmtk")
    access = tmp_path / "dicomweb.toml"
    extra = {
        "ARCHIVES": "archive=/archive,orthanc=dicomweb+http://orthanc:8042/dicom-web",
        "DICOMWEB": str(access),
        "ORTHANC_PASSWORD": ORTHANC_PASSWORD,
    }
    made = Machine(tmp_path / "machine", read_services(variables | extra))
    # The host's name is that of the service's container.
    text = (ROOT / variables["DICOMWEB"]).read_text()
    access.write_text(text.replace("//orthanc:8042/", f"//127.0.0.1:{made.ports['orthanc']}/"))
    yield made
    made.close()


def test_orthanc_receives_images_and_what_reads_archives_finds_them_there(
    with_orthanc: Machine, tmp_path: Path
) -> None:
    machine = with_orthanc
    machine.start("orthanc")
    await_healthy(machine, "orthanc")
    (tmp_path / "image.dcm").write_bytes(radiograph(image_pixels(1), 1))
    sent = ["storescu", "-aec", "ORTHANC", "127.0.0.1", str(machine.ports["dicom"]), str(tmp_path / "image.dcm")]
    subprocess.run(sent, check=True)
    for name in ("cli", "feeder", "pages", "worker", "worker-cpu"):
        service = machine.services[name]
        with pytest.MonkeyPatch.context() as patch:
            # Where the file of the credentials says that the password is.
            patch.setenv("ORTHANC_PASSWORD", machine.environ(service)["ORTHANC_PASSWORD"])
            archives = read_settings(machine.environ(service)).archives
            studies = search(archives["orthanc"], "studies")
        assert [study["0020000D"]["Value"] for study in studies] == [[study_uid(1)]], name
    port = machine.ports["orthanc"]
    for headers in ({}, authorization(""), authorization(ORTHANC_PASSWORD, "orthanc")):
        assert ask(port, "GET", "/dicom-web/studies", b"", headers).status == 401
    assert ORTHANC_PASSWORD not in " ".join(machine.command_lines())
    machine.stop("orthanc")
    assert not machine.is_healthy("orthanc")


def test_orthanc_does_not_start_without_a_password(tmp_path: Path, variables: dict[str, str]) -> None:
    done = Machine(tmp_path / "machine", read_services(variables)).run("orthanc")
    assert (done.returncode, done.stderr) == (1, "set ORTHANC_PASSWORD in .env\n")


def await_healthy(machine: Machine, name: str) -> None:
    """Wait for a service as long as Compose would before it counts as unhealthy."""
    seconds = machine.services[name].seconds("healthcheck", "start_period")
    await_that(lambda: machine.is_healthy(name), seconds, f"{name} is healthy; see {machine.log(name)}")


def assert_archive_is_screened(machine: Machine, studies: int) -> None:
    """Enqueue the archive with `cli`, and check that its run ends with a score for every study."""
    done = machine.run("cli", "enqueue", "archive")
    assert done.returncode == 0, done.stderr
    database = Database(machine.environ(machine.services["cli"])["BONESCREEN_DATABASE_URL"])
    await_that(lambda: run_summary(database, 1).state is RunState.DONE, 60, "the run is done")
    database.close()
    assert machine.run("cli", "status").returncode == 0
    found = json.loads(machine.run("cli", "results", "--format", "json").stdout)
    assert (len(found), {study["status"] for study in found}) == (studies, {"scored"})
    drawn = machine.run("cli", "heatmap", found[0]["study"], "--output", str(machine.log("heatmaps")))
    assert (drawn.returncode, len(drawn.stdout.splitlines())) == (0, found[0]["images"]), drawn.stderr


def assert_servers_are_configured(machine: Machine) -> None:
    """Check that the broker keeps its data and evicts nothing, and that servers need passwords and hide them."""
    port = machine.ports["broker"]
    once = Retry(NoBackoff(), 0)
    with redis.Redis(port=port, password=BROKER_PASSWORD, retry=once) as client:
        kept = {name: client.config_get(name)[name] for name in ("appendonly", "maxmemory-policy", "save")}
    assert kept == {"appendonly": "yes", "maxmemory-policy": "noeviction", "save": ""}
    with redis.Redis(port=port, retry=once) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(
            host="127.0.0.1", port=machine.ports["database"], user="bonescreen", password="x", dbname="bonescreen"
        )
    for name, path, user, password in (
        ("flower", "/api/workers", "radiology", FLOWER_PASSWORD),
        ("pages", "/api/v1/runs", "ada", PAGES_PASSWORD),
        ("pages", "/api/v1/images/1/1/heatmap.png", "ada", PAGES_PASSWORD),
    ):
        page = urllib.request.Request(f"http://127.0.0.1:{machine.ports[name]}{path}")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(page)
        page.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
        with urllib.request.urlopen(page) as answer:
            assert answer.status == 200
    seen = " ".join(machine.command_lines())
    assert "valkey-server" in seen
    assert not any(
        password in seen for password in (BROKER_PASSWORD, DATABASE_PASSWORD, FLOWER_PASSWORD, PAGES_PASSWORD)
    )
