"""Tables on narrow and wide terminals."""

import io

from rich.console import Console

from bonescreen.terminal import print_to, table_lines
from xray.printable import escape_unprintable

TITLES = (" score", "result", "study")
ROWS = [("0.9", "positive: fracture", "XR_HAND/patient1/study1"), ("-", "incomplete", "b")]


def test_a_table_that_fits_has_a_line_a_row_and_no_trailing_blanks() -> None:
    assert [line.plain for line in table_lines(TITLES, ROWS, 80)] == [
        "score  result              study",
        "  0.9  positive: fracture  XR_HAND/patient1/study1",
        "    -  incomplete          b",
    ]


def test_where_a_table_does_not_fit_the_key_is_on_a_line_of_its_own_in_one_piece() -> None:
    assert [line.plain for line in table_lines(TITLES, ROWS, 49)] == [
        "score  result",
        "    study",
        "  0.9  positive: fracture",
        "    XR_HAND/patient1/study1",
        "    -  incomplete",
        "    b",
    ]


def test_a_file_gets_a_line_a_row_whatever_its_width() -> None:
    assert len(list(table_lines(TITLES, [("0.9", "negative", "k" * 500)], None))) == 2


def test_wide_characters_keep_columns_aligned() -> None:
    header, first, _ = (line for line in table_lines(("key", "end"), [("手首", "x"), ("abc", "y")], None))
    assert header.plain == "key   end"
    assert first.plain == "手首  x"


def test_invisible_characters_of_a_name_are_escaped() -> None:
    assert escape_unprintable("a\u202eb\nc\x07") == "a\\u202eb\\nc\\x07"
    assert escape_unprintable("Röntgen 手首") == "Röntgen 手首"


def test_a_message_is_one_line_as_it_is_however_narrow_the_terminal() -> None:
    terminal = Console(file=io.StringIO(), width=20, force_terminal=True)
    with terminal.capture() as shown:
        print_to(terminal, "a[/b]c :smile: \x1b[2J continue it with: bonescreen resume 7")
    assert shown.get() == "a[/b]c :smile: \\x1b[2J continue it with: bonescreen resume 7\n"
