"""Text that is safe to print: names, headers and tables come from anywhere, and may hold what controls a terminal."""


def escape_unprintable(text: str) -> str:
    """Escape characters that control a terminal or are invisible in it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else escaped(c) for c in text)


def escape_controls(text: str) -> str:
    """Escape only the control characters of ASCII and Latin-1, in data that a program reads and a terminal may show."""
    return "".join(escaped(c) if c < " " or "\x7f" <= c < "\xa0" else c for c in text)


def escaped(character: str) -> str:
    r"""Write a character as an escape sequence of Python: ``\x1b``."""
    return character.encode("unicode_escape").decode()
