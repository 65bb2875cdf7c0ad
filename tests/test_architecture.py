"""The house's rules, as drawn in docs/architecture.md, held against the imports themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent
MAY_IMPORT = {
    "bonescreen": {"producer", "worker", "db", "training", "xray"},
    "producer": {"db", "xray"},
    "worker": {"db", "xray"},
    "db": {"xray"},
    "training": {"xray"},
    "xray": set[str](),
}
DB_MAY_IMPORT = {"xray.vocabulary", "xray.errors", "xray.message"}
KERAS_ROOMS = {"xray/engine.py", "xray/network.py", "xray/export.py", "xray/engine_keras.py"}


def modules(room: str) -> list[Path]:
    return sorted((HOUSE / room).rglob("*.py"))


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    forbidden = set(MAY_IMPORT) - MAY_IMPORT[room] - {room}
    wrong = {
        f"{file.relative_to(HOUSE)} imports {name}"
        for file in modules(room)
        for name in imported(file)
        if name.split(".")[0] in forbidden
    }
    assert modules(room)
    assert wrong == set()


def test_the_database_imports_of_the_science_only_its_words() -> None:
    names = {name for file in modules("db") for name in imported(file) if name.startswith("xray")}
    assert names <= DB_MAY_IMPORT


def test_keras_is_imported_only_where_networks_are_built_and_trained() -> None:
    wrong = {
        str(file.relative_to(HOUSE))
        for room in MAY_IMPORT
        for file in modules(room)
        if room != "training" and {name.split(".")[0] for name in imported(file)} & {"keras", "tensorflow", "jax"}
    }
    assert wrong <= KERAS_ROOMS


@pytest.mark.parametrize("process", ["worker.__main__", "producer.__main__", "bonescreen.cli", "bonescreen.monitor"])
def test_no_process_but_the_one_that_infers_loads_a_network_library(process: str) -> None:
    heavy = "tensorflow keras jax openvino scipy"
    check = f"import sys, {process}; sys.exit(' '.join(m for m in '{heavy}'.split() if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=HOUSE)
    assert (done.returncode, done.stderr.strip()) == (0, "")
