"""Help and usage errors of the command line."""

import re
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from xray.errors import UsageError


class CommandGroup(TyperGroup):
    """A group of commands whose help lists them under the headings that they were registered with."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Print the help where no command is named."""
        if not args:
            typer.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command by its name.

        Raises
        ------
        UsageError
            There is none; the text names those with a similar name.
        """
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            similar = get_close_matches(name, self.commands)
            meant = f"; did you mean {' or '.join(similar)}?" if similar else ""
            raise UsageError(f"there is no command {name!r}{meant or '; see: ' + ctx.command_path + ' --help'}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, each with the first sentence of its help."""
        listed = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        widest = max(len(name) for name, _ in listed)
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in listed:
            heading = getattr(command, "rich_help_panel", None)
            section = sections.setdefault(heading if isinstance(heading, str) else "Commands", [])
            section.append((name.ljust(widest), first_sentence(command.help or "")))
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl(rows)


class PlainCommand(TyperCommand):
    """A command whose help writes arguments and options without the types of Python."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line: ``[OPTIONS] STUDY``."""
        return [re.sub(r"[{}]", "", piece) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the options, each with its help."""
        for heading, kind in (("Arguments", "argument"), ("Options", "option")):
            records = [
                (parameter, parameter.get_help_record(ctx))
                for parameter in self.get_params(ctx)
                if parameter.param_type_name == kind
            ]
            rows = [
                (plain_name(parameter, record[0]), plain_help(record[1])) for parameter, record in records if record
            ]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


_TYPES = {"<int>": "N", "<int range>": "N", "<float>": "X", "<float range>": "X", "<str>": "TEXT", "<path>": "PATH"}
_RANGES = (
    (r"(\S+)<=x<=(\S+?)(?=[\];])", r"from \1 to \2"),
    (r"x>=([^\];]+)", r"at least \1"),
    (r"x<=([^\];]+)", r"at most \1"),
)


def plain_name(parameter: Any, record: str) -> str:
    """Return how help writes an argument (``STUDY``) or an option (``--limit N``)."""
    if parameter.param_type_name == "argument":
        return _name(parameter)
    return re.sub(r"<[^>|]+>", lambda match: _TYPES.get(match[0], match[0]), record)


def plain_help(text: str) -> str:
    """Return a help text with the range of a number in words: ``[at least 1]`` instead of ``[x>=1]``."""
    head, bracket, details = text.rpartition("  [")
    for pattern, words in _RANGES:
        details = re.sub(pattern, words, details)
    return head + bracket + details if bracket else text


def first_sentence(text: str) -> str:
    """Return a help text's first sentence, without its full stop."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"\.(?:\s|$)", paragraph, maxsplit=1)[0]


def usage_error_text(error: typer.TyperException) -> str:
    """Say in one line what is wrong with a command line, and where its help is.

    The texts of Typer and pydantic (``Invalid value for '--limit': Input should be ...``) are replaced by what the
    option takes; what our own checks say is kept.
    """
    context = getattr(error, "ctx", None)
    see = "" if context is None else f"; see: {context.command_path} --help"
    return _wrong(error) + see


def _wrong(error: typer.TyperException) -> str:
    parameter = getattr(error, "param", None)
    if parameter is not None:
        name = _name(parameter)
        if hasattr(error, "param_type"):
            return f"{name} is missing"
        # A validation error of the library is the cause of its own text; ours has none.
        return f"{name} must be {_accepted(parameter)}" if error.__cause__ else f"{name} {error.message}"
    if (option := getattr(error, "option_name", None)) is not None:
        similar = getattr(error, "possibilities", None)
        if similar is None:
            return f"{option} takes no value" if "does not take" in error.message else f"{option} needs a value"
        return f"there is no option {option}" + (f"; did you mean {' or '.join(similar)}?" if similar else "")
    if extra := re.search(r"unexpected extra argument\S* \((.*)\)", error.message):
        return f"too many arguments: {extra[1]}"
    return error.message.rstrip(".")


def _name(parameter: Any) -> str:
    longest: str = max(parameter.opts, key=len)
    return longest if longest.startswith("-") else (parameter.metavar or longest.upper()).strip("[].")


def _accepted(parameter: Any) -> str:
    """Say which values an option takes."""
    kind = parameter.type_descriptor
    if kind.choices:
        *most, last = (str(choice) for choice in kind.choices)
        return f"{', '.join(most)} or {last}" if most else last
    number = {int: "a whole number", float: "a number"}.get(kind.annotation, "another value")
    low, high = parameter.min, parameter.max
    if low is None and high is None:
        return number
    if high is None:
        return f"{number} of at least {low}"
    return f"{number} from {low} to {high}" if low is not None else f"{number} up to {high}"
