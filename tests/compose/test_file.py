"""docker-compose.yml and the Dockerfile, checked without running them."""

import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.compose.project import (
    COMPOSE_FILE,
    ROOT,
    VARIABLE,
    Service,
    dockerfile,
    example_variables,
    interpolate,
    read_compose_file,
    read_services,
    strings,
)

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
REQUIRED = {
    "ARCHIVE": "/data/archive",
    "BROKER_PASSWORD": "b",
    "DATABASE_PASSWORD": "d",
    "FLOWER_USER": "u",
    "FLOWER_PASSWORD": "f",
}
OPTIONAL = {"ORTHANC_PASSWORD": "o"}
SERVICES = read_services(example_variables() | REQUIRED | OPTIONAL)
DICOMWEB = "/etc/bonescreen/dicomweb.toml"
EACH = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def validate(file: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_file_matches_the_compose_schema() -> None:
    done = validate(COMPOSE_FILE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_overrides_in_the_documentation_match_the_compose_schema(tmp_path: Path) -> None:
    pages = [(ROOT / "docs" / name).read_text() for name in ("cluster.md", "dicomweb.md")]
    blocks = [block for page in pages for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert len(blocks) > 2
    for block in blocks:
        (tmp_path / "override.yml").write_text(block)
        done = validate(tmp_path / "override.yml")
        assert done.returncode == 0, block + done.stdout
        override = YAML(typ="safe", pure=True).load(block)
        for name, service in override.get("services", {}).items():
            assert service.get("extends", {}).get("service", name) in SERVICES
        assert override.get("volumes", {}).keys() <= read_compose_file()["volumes"].keys()


def test_every_variable_is_documented_and_no_other() -> None:
    used = {name for text in strings(read_compose_file()) for name in re.findall(r"\$\{([A-Z_]+)", text)}
    # Compose's own.
    assert example_variables().keys() - {"COMPOSE_PROFILES"} == used
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()


@pytest.mark.parametrize("name", REQUIRED)
def test_without_a_required_variable_nothing_starts(name: str) -> None:
    assert example_variables()[name] == ""
    with pytest.raises(KeyError, match=f"set {name} in .env"):
        read_services(example_variables() | REQUIRED | {name: ""})


def test_variables_are_interpolated_as_compose_does() -> None:
    variables = {"A": "1", "EMPTY": ""}
    assert interpolate("${EMPTY:-x${A}y}-${A:?why}-$${A}", variables) == "x1y-1-${A}"
    assert VARIABLE.search("$A") is None
    for wrong in ("${B}", "${EMPTY:?why}"):
        with pytest.raises(KeyError):
            interpolate(wrong, variables)
    with pytest.raises(AssertionError):
        interpolate("$A", variables)


def test_another_broker_and_database_can_replace_those_of_the_file() -> None:
    elsewhere = {
        "BROKER_URL": "rediss://:b@queue:6380/0",
        "DATABASE_URL": "postgresql://bonescreen:d@database/bonescreen",
    }
    for name in ("worker", "worker-cpu"):
        environ = read_services(example_variables() | REQUIRED | elsewhere)[name].environ
        assert environ["BONESCREEN_BROKER_URL"] == elsewhere["BROKER_URL"]
        assert environ["BONESCREEN_DATABASE_URL"] == elsewhere["DATABASE_URL"]


@EACH
def test_archives_and_models_are_mounted_read_only(service: Service) -> None:
    binds = [mount for mount in service.mounts if "/" in mount.source]
    assert all(mount.read_only for mount in binds)
    if service.environ.get("BONESCREEN_ARCHIVES") and service.name != "migrate":
        assert "/archive" in {mount.target for mount in binds}


@EACH
def test_what_reads_archives_can_sign_in_to_dicomweb_services(service: Service) -> None:
    mounted = [mount.source for mount in service.mounts if mount.target == DICOMWEB]
    reads = "BONESCREEN_ARCHIVES" in service.environ
    assert service.environ.get("BONESCREEN_DICOMWEB") == (DICOMWEB if reads else None)
    assert mounted == (["./examples/dicomweb.toml"] if reads else [])
    assert service.environ.get("ORTHANC_PASSWORD") == ("o" if reads or service.name == "orthanc" else None)


@EACH
def test_a_service_stores_its_data_in_a_volume_that_the_file_declares(service: Service) -> None:
    volumes = {mount.source for mount in service.mounts if "/" not in mount.source}
    assert volumes <= read_compose_file()["volumes"].keys()
    assert service.name not in ("broker", "database", "flower", "orthanc", "pages") or len(volumes) == 1


@EACH
def test_nothing_is_published_beyond_this_host(service: Service) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service.raw.get("ports", []))
    assert "network_mode" not in service.raw
    assert "privileged" not in service.raw


def test_orthanc_starts_only_if_asked_for_and_is_reached_by_modalities_where_env_says() -> None:
    orthanc = SERVICES["orthanc"]
    assert orthanc.raw["profiles"] == ["orthanc"]
    assert all("orthanc" not in service.needs for service in SERVICES.values())
    moved = read_services(example_variables() | REQUIRED | {"DICOM_ADDRESS": "10.0.0.5"})["orthanc"]
    assert moved.raw["ports"] == ["10.0.0.5:4242:4242", "127.0.0.1:8042:8042"]


def test_the_pages_read_the_archive_keep_their_users_and_are_where_env_says() -> None:
    pages = SERVICES["pages"]
    assert {mount.target for mount in pages.mounts if mount.read_only} == {"/archive", "/models", DICOMWEB}
    # `cli users add` writes where the pages read.
    assert pages.mounts == SERVICES["cli"].mounts
    assert pages.raw["ports"] == ["127.0.0.1:8000:8000"]
    moved = read_services(example_variables() | REQUIRED | {"PAGES_PORT": "8080"})["pages"]
    assert moved.raw["ports"] == ["127.0.0.1:8080:8000"]
    assert "/healthz" in " ".join(pages.raw["healthcheck"]["test"])


@EACH
def test_a_service_has_a_health_check_or_exits(service: Service) -> None:
    ends = "service_completed_successfully" in [other.needs.get(service.name) for other in SERVICES.values()]
    assert ("healthcheck" in service.raw) != (ends or service.raw.get("profiles") == ["tools"])


@EACH
def test_a_service_restarts_and_its_log_stays_small(service: Service) -> None:
    restart = service.raw["restart"]
    assert restart == ("unless-stopped" if "healthcheck" in service.raw else restart)
    assert service.raw["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service.raw["init"] is True
    assert service.raw["security_opt"] == ["no-new-privileges:true"]


def test_each_image_of_ours_is_built_by_one_service() -> None:
    built = {name: service.raw["build"]["target"] for name, service in SERVICES.items() if "build" in service.raw}
    assert built == {"migrate": "cpu", "worker": "gpu"}
    assert all(SERVICES[name].raw["image"].endswith(f"-{target}") for name, target in built.items())


@EACH
def test_an_image_is_pinned(service: Service) -> None:
    name, tag = service.raw["image"].split(":")
    if name == "bonescreen":
        version, target = tag.rsplit("-", 1)
        assert version == PROJECT["project"]["version"]
        assert re.search(rf"^FROM base AS {target}$", dockerfile(), re.MULTILINE)
        assert service.raw["pull_policy"] == "never"
    else:
        assert re.fullmatch(r"\d+\.\d+(\.\d+)?", tag)


@EACH
def test_only_the_gpu_worker_asks_for_gpus(service: Service) -> None:
    assert ("deploy" in service.raw) == (service.name == "worker") == (service.raw.get("profiles") == ["gpu"])
    # Otherwise CUDA numbers GPUs in another order than nvidia-smi, whose numbers .env uses.
    assert service.environ.get("CUDA_DEVICE_ORDER") == ("PCI_BUS_ID" if service.name == "worker" else None)


@EACH
def test_a_service_has_no_capabilities_and_ours_write_only_to_volumes(service: Service) -> None:
    ours = service.raw["image"].startswith("bonescreen:")
    assert (service.raw.get("read_only"), service.raw.get("tmpfs")) == ((True, ["/tmp"]) if ours else (None, None))
    # PostgreSQL's image starts as root and drops these rights itself.
    assert service.raw.get("cap_drop") == (None if service.name == "database" else ["ALL"])
    assert service.raw.get("user") == {"broker": "valkey", "orthanc": "orthanc"}.get(service.name)


def test_the_databases_volume_is_mounted_where_its_image_stores_data() -> None:
    database = SERVICES["database"]
    assert int(database.raw["image"].split(":")[1].split(".")[0]) >= 18
    # Below 18 it was /var/lib/postgresql/data, where these images refuse to start.
    assert [mount.target for mount in database.mounts] == ["/var/lib/postgresql"]


@EACH
def test_no_password_is_on_a_command_line(service: Service) -> None:
    words = set(strings([service.raw.get(key, []) for key in ("entrypoint", "command", "healthcheck")]))
    secrets = {value for name, value in (REQUIRED | OPTIONAL).items() if name.endswith("PASSWORD")}
    assert not any(secret in re.split(r"\W+", word) for word in words for secret in secrets)


def test_the_dockerfile_copies_only_what_exists_and_is_not_ignored() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile(), re.MULTILINE)
        for source in line.split()[:-1]
    }
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert "*" in ignored
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert copied >= {*PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], "constraints.txt"}
    for pattern in PROJECT["project"]["license-files"]:
        assert any(fnmatch(source, pattern.split("/")[0]) for source in copied)


def test_the_dockerfile_installs_all_dependencies_at_locked_versions(tmp_path: Path) -> None:
    project, extras = PROJECT["project"], PROJECT["project"]["optional-dependencies"]
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    script = re.findall(r"^RUN python -c '(.*)'$", dockerfile(), re.MULTILINE)
    assert len(script) == 1
    subprocess.run([sys.executable, "-c", script[0]], cwd=tmp_path, check=True)
    written = {file.stem: file.read_text().splitlines() for file in tmp_path.glob("*.txt")}
    assert written == {
        "build": PROJECT["build-system"]["requires"],
        "cpu": [*project["dependencies"], *extras["postgres"]],
        "gpu": [*extras["tensorflow"], *extras["cuda"]],
    }
    installs = re.findall(r"pip install .*--requirement (\w+)\.txt$", dockerfile(), re.MULTILINE)
    assert sorted(installs) == sorted(written)
    for name in ("cpu", "gpu"):
        assert f"pip install --constraint constraints.txt --requirement {name}.txt" in dockerfile()
    assert "nvidia-cudnn-cu12==" in (ROOT / "constraints.txt").read_text()


def test_an_edit_of_the_source_does_not_reinstall_the_dependencies() -> None:
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", dockerfile(), re.MULTILINE | re.DOTALL))
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    for name in ("requirements", "install-cpu", "install-gpu"):
        assert not any(re.search(rf"^COPY .*\b{package}\b", stages[name], re.MULTILINE) for package in packages)
    # What the builder needs comes before the source too, and the source last into each image.
    source = stages["install-source"]
    assert source.index("--requirement build.txt") < source.index("COPY xray")
    assert "pip install --no-deps --no-build-isolation" in source
    for name in ("cpu", "gpu"):
        assert re.findall(r"^COPY --from=(\S+)", stages[name], re.MULTILINE) == [f"install-{name}", "install-source"]


def test_the_image_runs_as_an_ordinary_user_from_a_pinned_base() -> None:
    bases = set(re.findall(r"^FROM (\S+:\S+) AS", dockerfile(), re.MULTILINE))
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.12\.\d+-slim-[a-z]+", bases.pop())
    final = dockerfile().split("\nFROM ")[0]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert "For research only, not for diagnosis." in final
