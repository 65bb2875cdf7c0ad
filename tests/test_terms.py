"""Retired words do not come back into code, docs, messages or templates: one term for one thing, and the field's."""

import re
import subprocess
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
    "ritual": "checks",
    "the house": "the code",
    "front door": "command line",
}
"""Retired words with what to write instead; inflected forms are retired with them."""

IDENTIFIERS = (
    "Sight", "Answers", "Exam", "Judgement", "Material", "Order", "Prints", "Standing", "Known", "Shown", "Pulse",
    "Placed", "Opponent", "SeenLayer", "Films", "Examined", "look_at", "meets",
)  # fmt: skip
"""Retired names of classes and functions, whole."""

MODULES = (
    "seeing", "doctor", "opponent", "seen", "learnt", "likeness", "known", "placing", "listing", "trouble", "hang",
    "pulse", "orphan", "tether", "cut", "regular", "show", "evaluated", "scanned", "planned", "judge", "material",
    "order", "release", "ifd", "listen",
)  # fmt: skip
"""Retired names of modules and packages."""

NOT_OURS = ("xray/models/", "LICENSES/", "LICENSE", "constraints.txt", "examples/archive/", "CHANGELOG.md")
"""A model package's files are fixed by its digest, licences by their authors; the changelog names what was renamed."""

STORED = re.compile(r"films\.csv|passed_over")
"""Names in stored formats: a package's table of training images, and a database table."""


def files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    suffixes = (".py", ".md", ".toml", ".yml", ".html", ".j2", ".mako", ".ipynb", ".example", ".css")
    names = [name for name in listed.split("\0") if name.endswith(suffixes) or name in ("Makefile", "Dockerfile")]
    return [ROOT / name for name in names if not name.startswith(NOT_OURS) and ROOT / name != Path(__file__)]


@pytest.mark.parametrize("word", WORDS)
def test_a_retired_word_is_in_no_file(word: str) -> None:
    pattern = re.compile(rf"(?<![a-z]){word}(?:s|ed|d|ing|es)?(?![a-z])", re.IGNORECASE)
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files()
        if file.exists()
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if pattern.search(STORED.sub("", line).replace("_", " "))
    ]
    assert found == [], f"write instead: {WORDS[word]}"


def test_a_retired_name_is_no_identifier() -> None:
    pattern = re.compile(rf"\b_?(?:{'|'.join(IDENTIFIERS)})\b(?=\(|:| =|\.)")
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in files()
        if file.suffix == ".py" and file.exists()
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if pattern.search(re.sub(r"\"[^\"]*\"|#.*", "", line))
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
