"""Retired words do not come back into code, docs, messages or templates: one term for one thing, and the field's."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

WORDS = {
    "film": "image, in prose radiograph",
    "doctor": "audit",
    "opponent": "baseline",
    "rival": "baseline",
    "judgement": "evaluation",
    "likeness": "near duplicate",
    "orphan": "parent death",
    "tether": "parent death",
    "settle": "record outcomes, processed",
    "passed over": "skipped",
    "mend": "correct, repair",
    "unlearnt": "untrained",
    "learnt": "trained, trainable",
    "patiently": "retry during an outage",
    "seeing": "explain",
    "placing": "study grouping",
    "trouble": "error classification",
    "pulse": "lease renewal",
    "judge": "evaluate, decide",
    "hang": "watchdog",
    "ritual": "checks",
    "the house": "the code",
    "front door": "command line",
}
"""Retired words with what to write instead; inflected forms are retired with them."""

NAMES = (
    "film", "sight", "answers", "exam", "judge", "judgement", "material", "opponent", "rival", "meets", "prints",
    "placed", "placing", "standing", "shown", "listing", "trouble", "hang", "pulse", "orphan", "tether", "settle",
    "hold", "room", "patiently", "seen", "seeing", "learnt", "likeness", "teaching", "doctor", "look",
)  # fmt: skip
"""Retired words in names of classes, functions and their parameters; `look_up` is not `look`."""

CLASSES = ("Order", "Known")
"""Retired names of classes, whole."""

MODULES = (
    "seeing", "doctor", "opponent", "seen", "learnt", "likeness", "known", "placing", "listing", "trouble", "hang",
    "pulse", "orphan", "tether", "cut", "regular", "show", "evaluated", "scanned", "planned", "judge", "material",
    "order", "release", "ifd", "listen",
)  # fmt: skip
"""Retired names of modules and packages."""

NOT_OURS = ("xray/models/", "LICENSES/", "LICENSE", "constraints.txt", "examples/archive/", "CHANGELOG.md")
"""A model package's files are fixed by its digest, licences by their authors; the changelog names what was renamed."""

STORED = re.compile(r"films\.csv|[\"`(_]passed_over[\"`._]")
"""Names in stored formats: a package's table of training images, and a database table."""

SHOWN = "what the model has learnt from"
"""What people read of an image out of scope: everyday words, for those who never train."""

CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")


def files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    suffixes = (".py", ".md", ".toml", ".yml", ".html", ".j2", ".mako", ".ipynb", ".example", ".css")
    names = [
        name
        for name in listed.split("\0")
        if name.endswith(suffixes) or name in ("Makefile", "Dockerfile", ".dockerignore", ".gitignore", ".ci/run")
    ]
    return [ROOT / name for name in names if not name.startswith(NOT_OURS) and ROOT / name != Path(__file__)]


def defined_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.ClassDef) or (
            isinstance(node, ast.FunctionDef) and not node.name.startswith("test_")
        ):
            yield node.name


@pytest.mark.parametrize("word", WORDS)
def test_a_retired_word_is_in_no_file(word: str) -> None:
    pattern = re.compile(rf"(?<![a-z]){word}(?:s|ed|d|ing|es)?(?![a-z])", re.IGNORECASE)
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files()
        if file.exists()
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if pattern.search(CAMEL_CASE.sub(" ", STORED.sub("", line.replace(SHOWN, ""))).replace("_", " "))
    ]
    assert found == [], f"write instead: {WORDS[word]}"


def test_no_class_function_or_parameter_has_a_retired_word_in_its_name() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{name}"
        for file in files()
        if file.suffix == ".py" and file.exists()
        for name in defined_names(ast.parse(file.read_text()))
        if set(CAMEL_CASE.sub("_", name.replace("look_up", "")).lower().split("_")) & set(NAMES) or name in CLASSES
    ]
    assert found == []


def test_a_retired_name_is_no_module() -> None:
    packages = ("bonescreen", "producer", "worker", "db", "training", "xray")
    found = [
        str(file.relative_to(ROOT))
        for file in files()
        if file.suffix == ".py" and file.relative_to(ROOT).parts[0] in packages
        if {part.removesuffix(".py") for part in file.relative_to(ROOT).parts} & set(MODULES)
    ]
    assert found == []
