"""The layers drawn in docs/architecture.md, checked against the imports themselves."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("bonescreen", "producer", "worker", "db", "training", "xray")
SUBPACKAGES = (
    "xray.archives", "xray.images", "xray.network",
    "training.data", "training.evaluate", "training.fit", "training.explain", "training.audit",
)  # fmt: skip
XRAY = {"xray", "xray.archives", "xray.images", "xray.network"}
MAY_IMPORT = {
    "xray": set[str](),
    "xray.archives": {"xray"},
    "xray.images": {"xray"},
    "xray.network": {"xray", "xray.images"},
    "db": {"xray", "xray.archives"},
    "producer": {"db", *XRAY},
    "worker": {"db", *XRAY},
    "training.data": {"training", *XRAY},
    "training.evaluate": {"training", "training.data", *XRAY},
    "training.fit": {"training", "training.data", "training.evaluate", *XRAY},
    "training.explain": {"training", *XRAY},
    "training.audit": {"training", "training.data", *XRAY},
    "training": {"training.data", "training.evaluate", "training.fit", *XRAY},
    "bonescreen": {"producer", "worker", "db", "training", *SUBPACKAGES, "xray"},
}
"""Which packages a package may import, besides itself."""

TRAINING_SHARED = {"training.recipes", "training.disk", "training.progress", "training.report_page"}
"""The only modules of training itself that its subpackages import; these import no subpackage."""

DB_MAY_IMPORT = {
    "xray.vocabulary", "xray.errors", "xray.message", "xray.thresholds", "xray.copies", "xray.pseudonym",
    "xray.archives.archive_file",
}  # fmt: skip
"""The only modules of xray that the database imports: shared terms, and the files that a scan finds."""

KERAS_MODULES = {
    "xray.network.builder", "xray.network.engine", "xray.network.keras_engine", "xray.network.distance",
    "xray.network.efficientnet_lite",
    "bonescreen.bench.keras_scripts",
}  # fmt: skip


@cache
def imports() -> dict[str, set[str]]:
    """Map each of our modules to what it imports anywhere in it, within functions too."""
    found = {}
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[module] = _imported(file)
    return found


def _imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def package_of(module: str) -> str:
    return next((name for name in SUBPACKAGES if f"{module}.".startswith(f"{name}.")), module.split(".")[0])


def ours(names: set[str]) -> set[str]:
    return {name for name in names if name in imports()}


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_those_below_it(package: str) -> None:
    members = {module for module in imports() if package_of(module) == package}
    wrong = {
        f"{module} imports {name}"
        for module in members
        for name in ours(imports()[module])
        if package_of(name) not in MAY_IMPORT[package] | {package} and name not in (*PACKAGES, *SUBPACKAGES)
    }
    assert members
    assert wrong == set()


def test_no_modules_import_each_other_in_a_circle_not_even_within_functions() -> None:
    graph = {module: ours(names) - {module, *PACKAGES, *SUBPACKAGES} for module, names in imports().items()}
    TopologicalSorter(graph).prepare()


def test_trainings_subpackages_share_modules_that_import_none_of_them() -> None:
    subpackages = [module for module in imports() if package_of(module).startswith("training.")]
    used = {name for module in subpackages for name in ours(imports()[module]) if package_of(name) == "training"}
    below = {name for module in TRAINING_SHARED for name in ours(imports()[module])}
    assert used - {"training"} == TRAINING_SHARED
    assert {name for name in below if package_of(name).startswith("training.")} == set()


def test_only_the_command_line_imports_the_commands() -> None:
    above = {"bonescreen.cli", *(module for module in imports() if module.startswith("bonescreen.commands"))}
    users = {module for module, names in imports().items() if any(_is_command(name) for name in ours(names))}
    assert "bonescreen.cli" in users
    assert users <= above


def _is_command(module: str) -> bool:
    return module.startswith("bonescreen.commands")


def test_the_database_imports_only_the_shared_words_of_xray() -> None:
    members = [module for module in imports() if package_of(module) == "db"]
    names = {name for module in members for name in ours(imports()[module]) if name.startswith("xray.")}
    assert names <= DB_MAY_IMPORT


def test_keras_is_imported_only_where_networks_are_built_and_trained() -> None:
    wrong = {
        module
        for module, names in imports().items()
        if not module.startswith("training") and {name.split(".")[0] for name in names} & {"keras", "tensorflow", "jax"}
    }
    assert wrong <= KERAS_MODULES


@pytest.mark.parametrize(
    "process", ["worker.__main__", "producer.__main__", "bonescreen.cli", "bonescreen.monitor", "bonescreen.pages.app"]
)
def test_only_the_process_that_infers_loads_a_network_library(process: str) -> None:
    heavy = "tensorflow keras jax openvino scipy"
    check = f"import sys, {process}; sys.exit(' '.join(m for m in '{heavy}'.split() if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr.strip()) == (0, "")
