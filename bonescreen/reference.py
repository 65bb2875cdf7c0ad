"""Write ``docs/commands.md`` from the commands and settings themselves: ``make docs``."""

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import typer

from bonescreen.cli import GROUPS, app
from bonescreen.command_group import plain_help, plain_name
from xray.settings import Settings

INTRODUCTION = """\
# Commands and settings

<!-- Made by `make docs` from the help texts and from xray/settings.py: change them there. -->

`bonescreen COMMAND --help` prints the same. More about [archives, layouts and runs](archives.md),
[results, statuses and output for scripts](results.md), [training](training.md), [evaluation](evaluation.md) and
[clusters](cluster.md). Results are for research only, not for diagnosis.
"""

SETTINGS = """\
## Settings

Environment variables, read when a command starts.

| Setting | Default | |
|---|---|---|
"""

WIDTH = 120


def reference() -> str:
    """Return the text of ``docs/commands.md``."""
    root = typer.main.get_command(app)
    context: Any = typer.Context(root, info_name="bonescreen", **app.info.context_settings)  # type: ignore[arg-type]
    commands = getattr(root, "commands")  # noqa: B009
    parts = [INTRODUCTION]
    for heading, names in GROUPS.items():
        parts.append(f"## {heading}\n")
        for name in names:
            parts += _sections(name, commands[name], context)
    rows = (f"| `{name}` | {default} | {text} |\n" for name, default, text in settings())
    return "\n".join([*parts, SETTINGS + "".join(rows)])


def settings() -> Iterator[tuple[str, str, str]]:
    """Yield each setting's name, default and description, as the docstring of `Settings` has them."""
    entries = re.split(r"^\w+ : .*\n", textwrap.dedent(str(Settings.__doc__).partition("----------\n")[2]), flags=re.M)
    for entry in entries[1:]:
        text = " ".join(entry.replace("``", "`").split())
        described = re.fullmatch(r"`(BONESCREEN_[A-Z_]+)`, default ([^:]+): (.+)", text)
        if described is None:
            raise ValueError(f"a setting is not described as '``BONESCREEN_NAME``, default ...: ...': {text!r}")
        yield described[1], described[2], described[3]


def _sections(name: str, command: Any, parent: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=name, parent=parent)
    children = getattr(command, "commands", None)
    if children is not None:
        for child_name, child in children.items():
            yield from _sections(child_name, child, context)
        return
    *paragraphs, example = command.help.strip().split("\n\n")
    yield f"### `{context.command_path}`\n"
    for paragraph in paragraphs:
        yield textwrap.fill(" ".join(paragraph.split()), WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"
    yield f"```sh\n{' '.join(example.split()).removeprefix('Example: ')}\n```\n"
    rows = "".join(_rows(command, context))
    if rows:
        yield f"| Argument or option | |\n|---|---|\n{rows}"


def _rows(command: Any, context: Any) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or parameter.name == "help":
            continue
        # The long name first, as the short one says nothing to a reader.
        flags, _, metavar = plain_name(parameter, record[0]).replace("|", r"\|").partition(" --")
        name = f"`{flags}`" if not metavar else f"`--{metavar}`, `{flags.rstrip(',')}`"
        text = re.sub(r"  \[(.*)\]$", r" (\1)", plain_help(record[1])).replace("|", r"\|")
        yield f"| {name} | {text} |\n"


if __name__ == "__main__":
    print(reference(), end="")
