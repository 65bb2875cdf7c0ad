"""How this machine reaches Debian's packages and PyPI, for builds that know nothing of its settings."""

import ast
import configparser
import subprocess
from pathlib import Path

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_OPTIONS = (
    "index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "client-cert", "proxy",
    "default-timeout", "timeout",
)  # fmt: skip


def debian_mirror() -> list[str]:
    """Return the URL from which this machine's apt has Debian's packages; none if it has others, or no lists yet."""
    form = "$(ORIGIN) $(LABEL) $(SITE)"
    listed = _output("apt-get", "indextargets", "--format", form, "Created-By: Packages")
    sites = [site for origin, label, site in map(str.split, listed.splitlines()) if origin == label == "Debian"]
    return sites[:1]


def apt_options() -> list[str]:
    """Return this machine's proxies and certificates for apt, a setting each."""
    settings = _output("apt-config", "dump", "--format", '%F "%v";%n', "Acquire::http", "Acquire::https")
    return [line for line in settings.splitlines() if not line.endswith(' "";')]


def pip_mounts(pip: Path, folder: Path) -> list[str]:
    """Return the mounts with which pip in a build finds packages as pip does here.

    Parameters
    ----------
    pip : Path
        A pip of this machine, which is asked for its settings.
    folder : Path
        Where their copy is written.

    Returns
    -------
    list of str
        ``source:target:ro``: a pip.conf, and the certificates and local indexes that it names.
    """
    options = {"cert": str(CERTIFICATES)} if CERTIFICATES.exists() else {}
    # Those of the environment come first in the list, and win.
    for line in sorted(_output(str(pip), "config", "list").splitlines(), reverse=True):
        name, value = line.split("=", 1)
        section, _, option = name.rpartition(".")
        if section in ("global", ":env:") and option in PIP_OPTIONS:
            options[option] = ast.literal_eval(value)
    config = configparser.RawConfigParser()
    config["global"] = options
    file = folder / "pip.conf"
    with file.open("w") as text:
        config.write(text)
    file.chmod(0o644)
    return [f"{file}:/etc/pip.conf:ro", *(f"{path}:{path}:ro" for path in sorted(_local_paths(options)))]


def _local_paths(options: dict[str, str]) -> set[Path]:
    paths = set()
    for word in " ".join(options.values()).split():
        path = Path(word.removeprefix("file://"))
        if path.is_absolute() and path.exists():
            # The files of a local index lie beside it.
            paths.add(path.parent if word.startswith("file://") else path)
    return paths


def _output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
