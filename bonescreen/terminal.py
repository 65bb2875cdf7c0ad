"""Print data to standard output, for scripts too, and everything else to standard error."""

import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.text import Text

from xray.printable import escape_unprintable

Cell = str | Text
GAP = "  "


def print_line(text: Cell, style: str = "") -> None:
    """Print one line to standard output, as it is: no markup, no folding, no control characters."""
    Console().print(_printable(text, style), soft_wrap=True)


def print_wrapped(beginning: str, text: str, style: str = "") -> None:
    """Print a text after `beginning`; in a terminal wrapped at words, with the next lines indented to match."""
    console = Console()
    if not (console.is_terminal and text):
        print_line(beginning + text, style)
        return
    indent = " " * len(beginning)
    for line in textwrap.wrap(
        text, max(console.width, 2 * len(indent)), initial_indent=beginning, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    ):  # fmt: skip
        print_line(line, style)


def print_to(console: Console, text: str) -> None:
    """Print one line to a console that may show a progress bar, as it is, like `print_line`."""
    console.print(Text(escape_unprintable(text)), soft_wrap=True)


def print_notice(text: str) -> None:
    """Print one line to standard error, so that it is not in the data that a script reads."""
    print(escape_unprintable(text), file=sys.stderr)


def print_error(text: str) -> None:
    """Print one line, ``error: ...``, to standard error."""
    print_notice(f"error: {' '.join(text.split())}")


def print_table(titles: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print aligned columns; those whose title begins with a space are aligned to the right."""
    console = Console()
    for line in table_lines(titles, rows, console.width if console.is_terminal else None):
        print_line(line)


def table_lines(titles: Sequence[str], rows: Sequence[Sequence[Cell]], width: int | None) -> Iterator[Text]:
    """Align columns; the last one goes below its row where the table would be wider than `width`.

    A rich table would fold or crop a long study key, which must be copied in one piece.
    """
    header = [Text(title.strip(), "dim") for title in titles]
    cells = [
        header,
        *([_printable(cell) for cell in row] for row in rows),
    ]
    widths = [max(row[i].cell_len for row in cells) for i in range(len(titles))]
    below = width is not None and sum(widths) + len(GAP) * (len(widths) - 1) > width
    for row in cells:
        *aligned, last = (
            Text.assemble(" " * (size - cell.cell_len), cell) if title.startswith(" ") else cell
            for title, cell, size in zip(titles, row, widths, strict=True)
        )
        line = Text()
        for cell, size in zip(aligned, widths, strict=False):
            line.append_text(cell).append(" " * (size - cell.cell_len) + GAP)
        if below:
            line.rstrip()
            yield line
            line = Text(2 * GAP)
        yield line.append_text(last)


def _printable(cell: Cell, style: str = "") -> Text:
    if not isinstance(cell, Text):
        return Text(escape_unprintable(cell), style)
    return cell if cell.plain.isprintable() else Text(escape_unprintable(cell.plain), cell.style)


def write_json(value: object) -> None:
    """Write one JSON value to standard output, in ASCII, which any terminal's encoding can write."""
    print(json.dumps(value, indent=2))


def local_time(seconds: float) -> str:
    """Write seconds since the epoch as local time."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def utc_time(seconds: float) -> str:
    """Write seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
