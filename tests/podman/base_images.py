"""Stand-ins for the images that Dockerfile and docker-compose.yml take from a registry, made of Debian's packages."""

import re
from dataclasses import dataclass
from pathlib import Path

from tests.podman.log import Log
from tests.podman.podman import Podman, output_of
from tests.podman.registries import apt_options, debian_mirror

ROOT = Path(__file__).parent.parent.parent
SUITE = "trixie"
"""The first Debian with Valkey; its PostgreSQL is 17, its Python 3.13."""

POSTGRES = "/usr/lib/postgresql/17/bin"


@dataclass(frozen=True)
class StandIn:
    """An image of one Debian suite.

    Parameters
    ----------
    repository : str
        The image's name without its tag, as it is on Docker Hub.
    packages : str
        Debian's packages, separated by commas.
    hooks : tuple of str
        What mmdebstrap runs in the end; ``$1`` is the image's root.
    settings : tuple of str
        Instructions of a Dockerfile.
    version : tuple of str
        A command that prints which version stands in.
    """

    repository: str
    packages: str
    hooks: tuple[str, ...]
    settings: tuple[str, ...]
    version: tuple[str, ...]


STAND_INS = (
    StandIn(
        "docker.io/library/python",
        "python3,python3-venv,python3-pip",
        # Only Debian's own Python keeps pip from installing.
        ('ln -s python3 "$1/usr/bin/python"', 'rm "$1"/usr/lib/python3*/EXTERNALLY-MANAGED'),
        (),
        ("python", "--version"),
    ),
    StandIn(
        "docker.io/valkey/valkey",
        "valkey-server,valkey-tools",
        ('mkdir "$1/data"', 'chroot "$1" chown valkey:valkey /data'),
        ("VOLUME /data", "WORKDIR /data"),
        ("valkey-server", "--version"),
    ),
    StandIn(
        "docker.io/library/postgres",
        "postgresql",
        (
            'rm --recursive "$1"/var/lib/postgresql/*',
            f"copy-in {Path(__file__).parent / 'database_entrypoint.sh'} /usr/local/bin",
        ),
        (
            f"ENV PATH={POSTGRES}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "ENV PGDATA=/var/lib/postgresql/17/docker",
            "ENV LANG=C.UTF-8",
            "VOLUME /var/lib/postgresql",
            'ENTRYPOINT ["database_entrypoint.sh"]',
            'CMD ["postgres"]',
            "STOPSIGNAL SIGINT",
        ),
        (f"{POSTGRES}/postgres", "--version"),
    ),
)


def make_base_images(podman: Podman, folder: Path, log: Log) -> None:
    """Make the stand-ins under the names and tags that Dockerfile and docker-compose.yml use."""
    # Without one, mmdebstrap takes Debian's own.
    mirror = debian_mirror()
    options = [f"--aptopt={option}" for option in apt_options()]
    for stand_in in STAND_INS:
        name = f"{stand_in.repository}:{_tag(stand_in.repository)}"
        tree = folder / "image.tar"
        hooks = [f"--customize-hook={hook}" for hook in stand_in.hooks]
        include = f"--include={stand_in.packages}"
        output_of(["mmdebstrap", "--variant=minbase", include, *options, *hooks, SUITE, str(tree), *mirror])
        podman.run("import", "--quiet", *(f"--change={setting}" for setting in stand_in.settings), str(tree), name)
        tree.unlink()
        version = podman.run("run", "--rm", f"--entrypoint={stand_in.version[0]}", name, *stand_in.version[1:])
        log.say(f"{name.split('/', 1)[1]}: {version.strip()} of Debian {SUITE}")


def _tag(repository: str) -> str:
    text = (ROOT / "Dockerfile").read_text() + (ROOT / "docker-compose.yml").read_text()
    short = repository.removeprefix("docker.io/").removeprefix("library/")
    tags = set(re.findall(rf"(?:FROM|image:) {short}:(\S+)", text))
    if len(tags) != 1:
        raise LookupError(f"Dockerfile and docker-compose.yml name one tag of {short}, not {sorted(tags)}")
    return tags.pop()
