"""Run docker-compose.yml in containers and check what only containers have.

    make containers        or, as root: python3 -m tests.podman

The exit code is 0 if every check passed, 1 if not, and 2 if something that it needs is missing.
"""

import base64
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.podman.base_images import ROOT, make_base_images
from tests.podman.log import Log
from tests.podman.podman import CommandError, HealthTimer, Podman, await_that
from tests.podman.registries import pip_mounts

PACKAGES = ("podman", "runc", "netavark", "aardvark-dns", "catatonit", "iptables", "iproute2", "mmdebstrap")
"""Packages of Debian, 12 or newer."""

SERVICES = ("broker", "database", "feeder", "flower", "pages", "worker-cpu")
"""The services of docker-compose.yml that keep running with the profile cpu."""

OURS = ("feeder", "flower", "pages", "worker-cpu")
FLOWER_PORT, PAGES_PORT = 5555, 8000
PAGES_LOGIN = f"ada:{secrets.token_hex(24)}"
IMAGES, STUDIES, FLAGGED, UNREADABLE = 20, 10, 5, 1
"""What the README says of the example archive."""

COPIES = 30
"""How often the example archive is copied into itself, so that screening takes long enough to be interrupted."""

OLD = 1_700_000_000
"""A modification time in the past: files that were just modified are left to the next scan."""

LIMITS = """\
  - Base images were stand-ins made of Debian's packages: other versions of Python, Valkey and PostgreSQL than the
    pinned ones, and entrypoints of our own. The official images' entrypoints did not run.
  - The engine was Podman with runc, and podman-compose: not Docker's engine, BuildKit and Docker Compose. This program
    kept the start order of docker-compose.yml, which Podman cannot, and ran the health checks at their intervals.
  - The image for GPUs was not built, and no container had a GPU.
  - All containers ran on one machine: no published broker or database, no second host, no TLS."""


class Missing(Exception):
    """Something is missing; the text says what and how to get it."""


def main() -> int:
    """Run everything; return the exit code."""
    log = Log()
    try:
        require_what_is_needed()
    except Missing as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 2
    # So that what was made is removed then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="bonescreen-containers-", dir="/var/tmp") as name:
        try:
            log.step("Prepare")
            project = Project(Path(name) / "project")
            podman = Podman(Path(name), project.folder)
            log.say(f"{podman.run('--version').strip()}, runtime runc, storage driver {podman.driver}")
            try:
                run_everything(podman, project, log)
                log.step("Take down")
                take_down(podman, log)
            except CommandError:
                print_logs(podman)
                raise
            finally:
                podman.remove_everything()
        except CommandError as error:
            log.check("the program ran to its end", False, error)
    log.step("What this could not show")
    print(LIMITS)
    log.step(f"{len(log.failed)} checks failed" if log.failed else "All checks passed")
    return 1 if log.failed else 0


def require_what_is_needed() -> None:
    """Raise Missing unless this can run here."""
    if os.geteuid() != 0:
        raise Missing("run it as root: it makes file systems of base images, networks and containers")
    shown = [*("dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n"), *PACKAGES]
    try:
        listed = subprocess.run(shown, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise Missing("it needs Debian, or a system with Debian's packages") from error
    missing = [package for package in PACKAGES if f"installed {package}" not in listed.splitlines()]
    if importlib.util.find_spec("ensurepip") is None:
        missing.append("python3-venv")
    if missing:
        raise Missing(
            "Debian's packages are missing; run:\n"
            f"  apt-get update && apt-get install --no-install-recommends {' '.join(missing)}"
        )
    for port in (FLOWER_PORT, PAGES_PORT):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise Missing(f"port {port}, which docker-compose.yml publishes, is in use; stop what listens on it")


def run_everything(podman: Podman, project: "Project", log: Log) -> None:
    """Build, start, screen, kill, change and stop, in the order of an operator's days."""
    log.step("Make stand-ins for the base images")
    make_base_images(podman, project.folder.parent, log)
    build = ["--podman-build-args", " ".join(build_arguments(podman, project)), "build", "migrate"]
    log.step("Build the image, and again after an edit of the source")
    build_twice(podman, project, build, log)
    with HealthTimer(podman):
        log.step("Add a user of the pages, without whom they do not start")
        name, password = PAGES_LOGIN.split(":")
        # The first command also prints the id of the container that it is started with.
        cli(podman, "users", "add", name, typed=f"{password}\n")
        log.equal("users", cli(podman, "users", "list").split()[-1:], [name])
        log.step("Start the services")
        start(podman, log)
        log.step("Look at the containers from outside and inside")
        check_containers(podman, project, log)
        log.step("Screen the example archive")
        first = screen_example(podman, log)
        log.step("Let the archive grow, and kill the worker's container while it screens")
        kill_worker(podman, project, first, log)
        log.step("Look at Flower and the pages")
        check_flower(podman, project, log)
        check_pages(log)
        log.step("Kill every other container")
        for service in ("broker", "database", "feeder", "flower", "pages"):
            kill(podman, service, log)
        log.step("Pause the database")
        pause_database(podman, log)
        log.step("Upgrade: stop, build an edited source, start again")
        upgrade(podman, project, build, log)
        log.step("Stop")
        stop(podman, log)


class Project:
    """A copy of what an operator needs of the repository, with an .env of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        built = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
        files = (".dockerignore", ".env.example", "Dockerfile", "docker-compose.yml", "examples/dicomweb.toml")
        for name in (*built, *files, "examples/archive"):
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self.archive = folder / "examples" / "archive"
        self.originals = sorted(self.archive.glob("*/*/*/*.jpg"))
        self.settings = {
            "ARCHIVE": str(self.archive),
            "BROKER_PASSWORD": secrets.token_hex(24),
            "DATABASE_PASSWORD": secrets.token_hex(24),
            "FLOWER_USER": "radiology",
            "FLOWER_PASSWORD": secrets.token_hex(24),
            "BATCH_SIZE": "32",
        }
        lines = (folder / ".env.example").read_text().splitlines()
        names = [line.split("=")[0] for line in lines]
        filled = [
            f"{name}={self.settings[name]}" if name in self.settings else line
            for name, line in zip(names, lines, strict=True)
        ]
        env = folder / ".env"
        env.touch(mode=0o600)
        env.write_text("\n".join(filled) + "\n")
        # User 10001 reads it.
        for path in (self.archive, *self.archive.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.utime(path, (OLD, OLD))

    def edit_source(self, word: str) -> None:
        """Add a comment to a module."""
        with (self.folder / "bonescreen" / "cli.py").open("a") as module:
            module.write(f"# {word}\n")

    def grow(self) -> None:
        """Copy the example archive into itself, each copy of an image with content of its own."""
        for number in range(1, COPIES + 1):
            for original in self.originals:
                part, patient, study, image = original.relative_to(self.archive).parts
                copy = self.archive / part / f"patient{number}{patient[-4:]}" / study / image
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(with_comment(original.read_bytes(), f"copy {number}".encode()))
                os.utime(copy, (OLD, OLD))


def with_comment(jpeg: bytes, text: bytes) -> bytes:
    """Insert a comment (ITU-T T.81, B.2.4.5) after the start of a JPEG."""
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def build_arguments(podman: Podman, project: Project) -> list[str]:
    """Return the arguments with which a build reaches PyPI as this machine does."""
    mounts = pip_mounts(podman.pip, project.folder.parent)
    return ["--network=host", *(f"--volume={mount}" for mount in mounts)]


def build_twice(podman: Podman, project: Project, build: list[str], log: Log) -> None:
    """Build the image, edit the source, build again: the dependencies must come from the cache, the edit must not."""
    started = time.monotonic()
    podman.compose(*build)
    log.say(f"built in {time.monotonic() - started:.0f} s, with the dependencies")
    project.edit_source("edited")
    started = time.monotonic()
    printed = podman.compose(*build)
    log.say(f"built after an edit in {time.monotonic() - started:.0f} s")
    steps = printed.splitlines()
    installs = [number for number, line in enumerate(steps) if "pip install" in line and "requirement cpu.txt" in line]
    cached = [steps[number + 1] for number in installs]
    log.check("the dependencies came from the cache", len(cached) == 1 and "Using cache" in cached[0], cached)
    log.check("the image has the edit", has_edit(podman, "edited"), "the source before it")


def has_edit(podman: Podman, word: str) -> bool:
    """Return whether the image's module ends with the comment that `Project.edit_source` added."""
    script = "import bonescreen.cli, pathlib; print(pathlib.Path(bonescreen.cli.__file__).read_text())"
    image = "localhost/bonescreen:0.1.0-cpu"
    return podman.run("run", "--rm", "--entrypoint=python", image, "-c", script).rstrip().endswith(f"# {word}")


def start(podman: Podman, log: Log) -> None:
    """Start all services and wait until they are healthy."""
    started = time.monotonic()
    # Podman's own dependencies must be running: they cannot be a `migrate` that has ended.
    podman.compose("up", "--detach", "--no-deps", "broker", "database")
    await_healthy(podman, "broker", "database")
    podman.compose("up", "--detach", "--no-deps", "migrate")
    if podman.run("wait", container("migrate")).strip() != "0":
        raise CommandError("migrate failed")
    podman.compose("up", "--detach", "--no-deps", *OURS)
    await_healthy(podman, *OURS)
    log.say(f"all services are healthy after {time.monotonic() - started:.0f} s")
    log.equal("the running containers", podman.containers(), sorted(map(container, SERVICES)))


def await_healthy(podman: Podman, *services: str) -> None:
    """Wait until services are healthy."""
    names = [container(service) for service in services]
    await_that(lambda: all(podman.health(name) == "healthy" for name in names), 60, f"healthy: {', '.join(services)}")


def container(service: str) -> str:
    """Return the name that podman-compose gives to a service's container."""
    return f"bonescreen_{service}_1"


def cli(podman: Podman, *words: str, typed: str = "") -> str:
    """Run a command of bonescreen as an operator does, and return its output."""
    return podman.compose("--profile=tools", "run", "--rm", "--no-deps", "-T", "cli", *words, typed=typed)


def run_state(podman: Podman) -> dict[str, Any]:
    """Return the first run as ``bonescreen runs --json`` lists it, asked in the feeder's container."""
    found: list[dict[str, Any]] = json.loads(podman.run("exec", container("feeder"), "bonescreen", "runs", "--json"))
    return found[0]


def results(podman: Podman) -> dict[str, dict[str, Any]]:
    """Return the results by study."""
    return {found["study"]: found for found in json.loads(cli(podman, "results", "--format", "json"))}


def check_containers(podman: Podman, project: Project, log: Log) -> None:
    """Check users, capabilities, file systems, ports and command lines."""
    for service in SERVICES:
        check_processes(podman, service, log)
    for service in OURS:
        name = container(service)
        for path in ("/opt/bonescreen/x", "/etc/x", "/archive/x"):
            refused = not podman.succeeds("exec", name, "touch", path)
            if path != "/archive/x" or service != "flower":
                log.check(f"{service} cannot write {path}", refused, "written")
        log.check(f"{service} can write /tmp/x", podman.succeeds("exec", name, "touch", "/tmp/x"), "refused")
        log.equal(f"{service} has a read-only root", podman.inspect(name)["HostConfig"]["ReadonlyRootfs"], True)
    published = {service: ports(podman, service) for service in SERVICES}
    expected = {service: [] for service in SERVICES} | {
        "flower": [f"127.0.0.1:{FLOWER_PORT}"],
        "pages": [f"127.0.0.1:{PAGES_PORT}"],
    }
    log.equal("published ports", published, expected)
    others = other_addresses()
    for address in others:
        refused = all(socket.socket().connect_ex((address, port)) != 0 for port in (FLOWER_PORT, PAGES_PORT))
        log.check("the ports of Flower and the pages are closed on this machine's other address", refused, "open")
    if not others:
        log.say("not checked, as this machine has no other address: whether published ports are closed there")
    words = command_lines()
    shown = [name for name, value in project.settings.items() if name.endswith("PASSWORD") and value in words]
    log.equal("passwords on command lines", shown, [])


def check_processes(podman: Podman, service: str, log: Log) -> None:
    """Check what the kernel says of a service's processes, other than its init."""
    name = container(service)
    init = podman.inspect(name)["State"]["Pid"]
    found = {number: process_status(number) for number in podman.processes(name) if number != init}
    users = {status["Uid"].split()[1] for status in found.values()}
    capabilities = {status["CapEff"] for status in found.values()}
    log.check(f"{service}: {len(found)} processes, none of user 0", bool(found) and "0" not in users, users)
    if service in OURS:
        log.equal(f"{service}: users", users, {"10001"})
    log.equal(f"{service}: capabilities", capabilities, {"0" * 16})
    log.equal(f"{service}: no new privileges", {status["NoNewPrivs"] for status in found.values()}, {"1"})
    log.equal(f"{service}: system calls are filtered", {status["Seccomp"] for status in found.values()}, {"2"})
    if service != "database":
        bounds = {process_status(number)["CapBnd"] for number in (init, *found)}
        log.equal(f"{service}: capabilities that its processes can ever have", bounds, {"0" * 16})


def process_status(number: int) -> dict[str, str]:
    """Return the lines of /proc/NUMBER/status."""
    lines = Path(f"/proc/{number}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def ports(podman: Podman, service: str) -> list[str]:
    """Return the addresses of this machine at which a service can be reached."""
    return [line.split(" -> ")[1] for line in podman.run("port", container(service)).splitlines()]


def other_addresses() -> list[str]:
    """Return this machine's IPv4 addresses that are neither loopback nor a container network's."""
    listed = json.loads(subprocess.run(["ip", "-4", "-json", "address"], capture_output=True, check=True).stdout)
    outside = [link for link in listed if link["ifname"] != "lo" and not link["ifname"].startswith("podman")]
    return [address["local"] for link in outside for address in link["addr_info"]]


def command_lines() -> str:
    """Return the command lines of all processes of this machine."""
    words = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words.append(file.read_bytes().decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return "\n".join(words)


def screen_example(podman: Podman, log: Log) -> dict[str, dict[str, Any]]:
    """Enqueue the example archive and wait for its run's end; return the results by study."""
    started = time.monotonic()
    cli(podman, "enqueue", "archive")
    log.say(f"enqueued after {time.monotonic() - started:.0f} s")
    state = await_done(podman)
    log.say(f"the run is done after {time.monotonic() - started:.0f} s, in precision {state['precision']}")
    counts = [state[name] for name in ("images", "processed", "failed", "studies", "flagged")]
    log.equal(
        "images, processed, failed, studies, flagged, as in the README",
        counts,
        [IMAGES, IMAGES, UNREADABLE, STUDIES, FLAGGED],
    )
    log.check("status finds nothing wrong", json.loads(cli(podman, "status", "--json"))["ok"], "a problem")
    return results(podman)


def await_done(podman: Podman) -> dict[str, Any]:
    """Wait until the first run is done, and return it."""
    await_that(lambda: run_state(podman)["state"] == "done", 120, "the run is done")
    return run_state(podman)


def kill_worker(podman: Podman, project: Project, first: dict[str, dict[str, Any]], log: Log) -> None:
    """Kill the only worker in the middle of a run; it must start again, and the run must end with nothing lost."""
    project.grow()
    everything = IMAGES * (COPIES + 1)
    cli(podman, "enqueue", "archive")
    state = await_that(lambda: working_run(podman), 60, "the worker has begun with the new images")
    killed = time.monotonic()
    restarts = crash(podman, "worker-cpu")
    log.say(f"killed with {state['processed']} of {everything} images processed")
    log.check("the run was not done", state["processed"] < everything, state["processed"])
    await_restarted(podman, "worker-cpu", restarts)
    log.say(f"its container runs again after {time.monotonic() - killed:.1f} s")
    state = await_done(podman)
    log.say(f"the run is done {time.monotonic() - killed:.0f} s after the kill")
    await_healthy(podman, "worker-cpu")
    log.equal("images and processed", [state["images"], state["processed"]], [everything, everything])
    log.equal("failed images: only copies of the unreadable one", state["failed"], UNREADABLE * (COPIES + 1))
    found = results(podman)
    log.equal("studies with a result", len(found), STUDIES * (COPIES + 1))
    scores = {key: {round(found[study]["score"], 5) for study in found if twin(study) == twin(key)} for key in first}
    expected = {key: {round(result["score"], 5)} for key, result in first.items()}
    log.equal("every copy has its original's score", scores, expected)


def twin(study: str) -> str:
    """Return what a study has in common with its copies: body part, the patient's last digits, label."""
    part, patient, name = study.split("/")
    return f"{part}/{patient[-4:]}/{name}"


def working_run(podman: Podman) -> dict[str, Any] | None:
    """Return the run if images of the grown archive are processed."""
    state = run_state(podman)
    return state if state["images"] > IMAGES and state["processed"] > IMAGES else None


def crash(podman: Podman, service: str) -> int:
    """Kill a container's first process, and with it the container; return how often it was restarted before."""
    state = podman.inspect(container(service))
    os.kill(state["State"]["Pid"], signal.SIGKILL)
    restarts: int = state["RestartCount"]
    return restarts


def await_restarted(podman: Podman, service: str, restarts: int) -> None:
    """Wait until a container runs that was restarted since."""

    def restarted() -> bool:
        state = podman.inspect(container(service))
        return state["RestartCount"] > restarts and bool(state["State"]["Running"])

    await_that(restarted, 20, f"the container of {service} was started again")


def kill(podman: Podman, service: str, log: Log) -> None:
    """Kill a container; it must become healthy again, and so must all others."""
    killed = time.monotonic()
    await_restarted(podman, service, crash(podman, service))
    await_healthy(podman, service)
    log.say(f"{service} is healthy again after {time.monotonic() - killed:.0f} s")
    await_that(lambda: works_everywhere(podman), 60, f"every check passes after {service} was killed")
    log.say(f"the checks of all services pass after {time.monotonic() - killed:.0f} s")


def works_everywhere(podman: Podman) -> bool:
    """Return whether every service's health check passes now."""
    return all(podman.succeeds("healthcheck", "run", container(service)) for service in SERVICES)


def pause_database(podman: Podman, log: Log) -> None:
    """Freeze the database: health checks of those that need it must fail, and pass again afterwards."""
    frozen = time.monotonic()
    podman.run("pause", container("database"))
    try:
        for service in ("feeder", "worker-cpu"):
            checked = ("healthcheck", "run", container(service))
            await_that(lambda words=checked: not podman.succeeds(*words), 60, f"{service} is unhealthy")
            log.say(f"the check of {service} fails after {time.monotonic() - frozen:.0f} s")
    finally:
        podman.run("unpause", container("database"))
    thawed = time.monotonic()
    await_that(lambda: works_everywhere(podman), 60, "every check passes again")
    log.say(f"every check passes {time.monotonic() - thawed:.0f} s after the database goes on")


def check_flower(podman: Podman, project: Project, log: Log) -> None:
    """Check that Flower needs its login, and shows the worker by its container's host name."""
    workers = f"http://127.0.0.1:{FLOWER_PORT}/workers?json=1"
    log.equal("Flower without a login", asked(workers, None)[0], 401)
    log.equal("Flower with a wrong password", asked(workers, "radiology:wrong")[0], 401)
    login = f"{project.settings['FLOWER_USER']}:{project.settings['FLOWER_PASSWORD']}"
    host = podman.inspect(container("worker-cpu"))["Config"]["Hostname"]
    await_that(lambda: host in asked(workers, login)[1], 60, "Flower shows the worker")
    log.equal("Flower with its login", asked(workers, login)[0], 200)
    log.say("Flower shows the worker by its container's host name")


def check_pages(log: Log) -> None:
    """Check that the pages need their login, and show a study's heat map from the archive."""
    studies = f"http://127.0.0.1:{PAGES_PORT}/api/v1/runs/1/studies?limit=1"
    log.equal("the pages without a login", asked(studies, None)[0], 401)
    log.equal("the pages with a wrong password", asked(studies, "ada:wrong password")[0], 401)
    status, text = asked(studies, PAGES_LOGIN)
    log.equal("the pages with their login", status, 200)
    study = json.loads(text)["studies"][0]["study_id"]
    _, text = asked(f"http://127.0.0.1:{PAGES_PORT}/api/v1/runs/1/studies/{study}", PAGES_LOGIN)
    (*_, image) = json.loads(text)["images_held"]
    for picture in (image["picture"], image["heat_map"]):
        status, text = asked(f"http://127.0.0.1:{PAGES_PORT}{picture}", PAGES_LOGIN)
        log.check("the pages draw a picture from the archive", status == 200 and "PNG" in text[:8], status)


def asked(url: str, login: str | None) -> tuple[int, str]:
    """Return the status and the text of a page, as this machine gets it."""
    page = urllib.request.Request(url)
    if login is not None:
        page.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
    try:
        with urllib.request.urlopen(page, timeout=20) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, ""


def upgrade(podman: Podman, project: Project, build: list[str], log: Log) -> None:
    """Replace every container by one of a newer image; the volumes keep the results."""
    before = results(podman)
    podman.compose("down")
    project.edit_source("upgraded")
    podman.compose(*build)
    start(podman, log)
    log.check("the image has the edit", has_edit(podman, "upgraded"), "the source before it")
    log.check("the results are those from before", results(podman) == before, "others")


def stop(podman: Podman, log: Log) -> None:
    """Stop all containers within their grace periods."""
    started = time.monotonic()
    # podman-compose stops all at once; Docker Compose stops those first that need others.
    podman.compose("stop", *OURS)
    podman.compose("stop")
    log.say(f"stopped after {time.monotonic() - started:.0f} s")
    codes = {service: podman.inspect(container(service))["State"]["ExitCode"] for service in SERVICES}
    log.equal("exit codes", codes, dict.fromkeys(SERVICES, 0))


def take_down(podman: Podman, log: Log) -> None:
    """Remove containers, volumes, networks and images."""
    podman.compose("down", "--volumes")
    left = {
        "containers": podman.containers("--all"),
        "volumes": podman.run("volume", "ls", "--quiet").split(),
        "networks": podman.run("network", "ls", "--quiet", "--filter=name=bonescreen").split(),
    }
    log.equal("left after down --volumes", left, {"containers": [], "volumes": [], "networks": []})


def print_logs(podman: Podman) -> None:
    """Print the end of each container's log."""
    for name in podman.containers("--all"):
        print(f"\nThe log of {name} ends with\n{podman.log(name)}")


if __name__ == "__main__":
    sys.exit(main())
