r"""Names of files: one file has one name in an archive, in whichever Unicode form its host writes it.

macOS writes decomposed names (NFD), all others composed ones (NFC; Unicode Standard Annex 15), and the same disk shows
either through different mounts. An archive's paths are composed, and reading a file falls back to the form on disk.
Bytes that are not UTF-8 are written as ``\xNN``, so that databases and reports can hold the name.
"""

import os
import re
from collections.abc import Sequence
from unicodedata import normalize

_ESCAPE = re.compile(r"\\x([89a-f][0-9a-f])")


def stored_name(name: str) -> str:
    r"""Return how an archive's paths write a name or path: composed, and with ``\xNN`` for bytes that are not UTF-8.

    Only names that can be read back are changed: those that are completely decomposed.
    """
    if name.isascii():
        return name
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    composed = normalize("NFC", name)
    return composed if normalize("NFD", composed) == name else name


def name_in_folder(folder: str, name: str) -> str:
    """Return how an archive's paths write the name of a file or folder that is in `folder`, on this host.

    If the folder holds another file under that very name, the name stays as it is.
    """
    stored = stored_name(name)
    if stored == name:
        return name
    try:
        twin, own = (os.lstat(os.path.join(folder, form)) for form in (stored, name))
    except OSError:
        return stored
    # A file system of macOS finds a file by either form.
    return stored if os.path.samestat(twin, own) else name


def needs_lookup(path: str) -> bool:
    """Tell whether a path in an archive may be written differently on disk."""
    return not path.isascii() or "\\x" in path


def names_on_disk(folder: str, parts: Sequence[str]) -> list[str]:
    """Return the parts of a path below `folder` as they are written on disk.

    A part that exists as it is stays so, and so does one that is not found in any form.
    """
    found: list[str] = []
    for part in parts:
        path = os.path.join(folder, *found)
        name = part
        if needs_lookup(part) and not os.path.lexists(os.path.join(path, part)):
            name = next((form for form in other_forms(part) if os.path.lexists(os.path.join(path, form))), part)
        found.append(name)
    return found


def other_forms(name: str) -> list[str]:
    r"""Return the other ways to write a name or path: decomposed, composed, and with bytes in the place of ``\xNN``."""
    unescaped = _ESCAPE.sub(lambda match: os.fsdecode(bytes([int(match[1], 16)])), name)
    forms = (normalize("NFD", name), normalize("NFC", name), unescaped)
    return [form for form in dict.fromkeys(forms) if form != name]
