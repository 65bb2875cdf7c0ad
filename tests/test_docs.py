"""docs/commands.md is what the command line itself says, and the examples of all pages parse."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from bonescreen.cli import GROUPS, app
from bonescreen.reference import reference
from xray.network.package import load_package

ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "docs" / "commands.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, child in getattr(command, "commands", {}).items():
        yield from _leaves(child, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path), command


COMMANDS = dict(_leaves(typer.main.get_command(app)))
SECTIONS = dict(re.findall(r"^### `bonescreen ([a-z ]+)`\n(.*?)(?=^#|\Z)", REFERENCE, re.MULTILINE | re.DOTALL))


def _examples() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in re.findall(r"```(?:console|sh|bash)\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if match := re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*bonescreen (.*)", line.strip()):
                    yield page.name, match[1]
    for name, command in COMMANDS.items():
        example = re.search(r"^\s*Example: (?:[A-Z_]+=\S+ )*bonescreen (.*)$", command.help or "", re.MULTILINE)
        yield name, example[1] if example else "--no-example-in-the-help"


def test_the_reference_is_fresh() -> None:
    assert reference() == REFERENCE, "docs/commands.md is not fresh; run: make docs"


def test_every_command_has_its_section_and_every_section_its_command() -> None:
    assert SECTIONS.keys() == COMMANDS.keys()


def test_the_reference_has_the_headings_of_the_help() -> None:
    assert re.findall(r"^## (.+)$", REFERENCE, re.MULTILINE) == [*GROUPS, "Settings"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_names_the_options_of_its_command_and_no_others(name: str) -> None:
    options = {flag for parameter in COMMANDS[name].params for flag in parameter.opts if flag.startswith("--")}
    rows = re.findall(r"^\| `(--[a-z-]+)", SECTIONS[name], re.MULTILINE)
    assert sorted(rows) == sorted(options - {"--help"})


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_of_a_section_says_what_it_does(name: str) -> None:
    rows = re.findall(r"^\| `[^`]+`(?:, `-.`)? \| (.*) \|$", SECTIONS[name], re.MULTILINE)
    assert len(rows) == SECTIONS[name].count("\n| `")
    assert all(rows)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_has_an_example(name: str) -> None:
    assert re.search(rf"^(?:[A-Z_]+=\S+ )*bonescreen {name}\b", SECTIONS[name], re.MULTILINE)


def test_every_setting_is_documented_and_no_other() -> None:
    read = set(re.findall(r"BONESCREEN_[A-Z_]+", (ROOT / "xray" / "settings.py").read_text()))
    documented = set(re.findall(r"^\| `(BONESCREEN_[A-Z_]+)`", REFERENCE, re.MULTILINE))
    assert documented == read


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_modules_and_tests_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link}
    tests = {ROOT / name for name in re.findall(r"`(tests/[a-z_/.]+)`", text)}
    assert [link for link in links if not (page.parent / link).exists()] == []
    assert [str(test) for test in tests if not test.exists()] == []
    modules = re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", text)
    assert [module for module in modules if not (ROOT / module).exists()] == []
    named = re.findall(r"`(\w+)` in `([a-z_/]+\.py)`", text)
    assert [(name, module) for name, module in named if f"def {name}(" not in (ROOT / module).read_text()] == []
    assert "@@" not in text


@pytest.mark.parametrize(("where", "example"), list(_examples()))
def test_an_example_parses(where: str, example: str) -> None:
    words = shlex.split(example.split(" > ")[0].split(" | ")[0], comments=True)
    group: Any = typer.main.get_command(app)
    while hasattr(group, "commands") and words and words[0] in group.commands:
        group = group.commands[words.pop(0)]
    if words not in (["--help"], ["--version"]):
        group.make_context(where, words)


def test_the_numbers_in_plain_words_are_those_of_the_models_card() -> None:
    card = load_package("fracture-5").card
    page = re.sub(r"\s+", " ", (ROOT / "docs" / "model.md").read_text())
    measured = {each.name: each for each in reversed(card.metrics) if "images (n=3002" in each.population}
    found, cleared, found_below, cleared_below = (
        measured[f"{name} at {at}"].value
        for at in ("0.280 (Youden)", "0.044 (sensitivity 0.95)")
        for name in ("sensitivity", "specificity")
    )
    pointing = next(each.value for each in card.metrics if each.name == "pointing game")

    def precision(prevalence: float) -> float:
        return found * prevalence / (found * prevalence + (1 - cleared) * (1 - prevalence))

    for words in (
        f"Of 100 fractured images it calls {100 * found:.0f} positive and misses {100 - 100 * found:.0f}. "
        f"Of 100 others it calls {100 - 100 * cleared:.0f} positive.",
        f"(`screen --threshold 0.044`) it misses {100 - 100 * found_below:.0f} of 100, and calls "
        f"{100 - 100 * cleared_below:.0f} of 100 others positive.",
        f"and {100 * precision(592 / 3002):.0f} of 100 positive images are fractured",
        f"it would be {100 * precision(1 / 20):.0f} of 100",
        f"**AUROC {measured['AUROC'].value:.3f}**",
        f"in {100 * measured['AUROC'].value:.0f} of 100 pairs",
        f"In {100 * pointing:.0f} of 100 fractured images its greatest cell lies on the marked fracture",
        f"in the other {100 - 100 * pointing:.0f} it lies elsewhere",
    ):
        assert words in page
