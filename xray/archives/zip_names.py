"""Decode the names of a zip's members that are not flagged as UTF-8 (APPNOTE.TXT 6.3.10, appendix D).

The standard says code page 437. Info-ZIP on Linux and macOS write UTF-8 without the flag, and Windows writes the code
page of its country. One tool writes all names of a zip, so they are decoded together: by the code page that makes the
most plausible text of them.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

WESTERN = "cp437"
SAMPLE = 1_000
"""Maximum number of names that decide; a code page must decode all names of the zip."""

_COMMON_WORDS = {
    "cp932": "右左手足腕肩肘膝指骨頭首胸腰正面側像撮影患者検査年月日画",
    "gb18030": "右左手足腕肩肘膝指骨头颈胸腰正侧位片影像患者检查年月日图测试",
    "cp950": "右左手足腕肩肘膝指骨頭頸胸腰正側位片影像患者檢查年月日圖測試",
    "cp949": "오른왼손목팔꿈치어깨무릎발가락뼈흉부정면측면검사영상환자년월일사진병원김이박",
}
"""The code pages of East Asia, each with characters that are frequent in the names of radiographs."""

_Ranges = tuple[tuple[bytes, bytes], ...]
_RANGES: dict[str, tuple[_Ranges, _Ranges]] = {
    # Letters and digits of full width, kana, JIS level 1; level 2.
    "cp932": (((b"\x82\x4f", b"\x83\x96"), (b"\x88\x9f", b"\x98\x72")), ((b"\x98\x9f", b"\xea\xa4"),)),
    # GB 2312 level 1; level 2.
    "gb18030": (((b"\xb0\xa1", b"\xd7\xf9"),), ((b"\xd8\xa1", b"\xf7\xfe"),)),
    # Big5 level 1; level 2.
    "cp950": (((b"\xa4\x40", b"\xc6\x7e"),), ((b"\xc9\x40", b"\xf9\xd5"),)),
    # KS X 1001: Hangul; Hanja.
    "cp949": (((b"\xb0\xa1", b"\xc8\xfe"),), ((b"\xca\xa1", b"\xfd\xfe"),)),
}
"""Of each code page, the codes of common and of rare characters."""

_WESTERN_LETTERS = frozenset("ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜáíóúñÑªºß")
_RUN = re.compile(r"[^\x00-\x7f]+")
_FREQUENT, _COMMON, _RARE = 2.0, 1.0, 0.3


def decode_names(names: Sequence[bytes]) -> list[str]:
    """Decode the names of the members of one zip that are not flagged as UTF-8.

    Parameters
    ----------
    names : sequence of bytes
        As the directory has them.

    Returns
    -------
    list of str
        In the same order.
    """
    with suppress(UnicodeDecodeError):
        return [name.decode() for name in names]
    sample = [name for name in dict.fromkeys(names) if not _is_utf8(name)][:SAMPLE]
    best, chosen = _plausibility(sample, WESTERN), WESTERN
    for encoding in _COMMON_WORDS:
        with suppress(UnicodeDecodeError):
            decoded = [name.decode(encoding) for name in names]
            if (score := _plausibility(sample, encoding)) > best:
                best, chosen, result = score, encoding, decoded
    return result if chosen != WESTERN else [_utf8_or_western(name) for name in names]


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _utf8_or_western(name: bytes) -> str:
    return name.decode() if _is_utf8(name) else name.decode(WESTERN)


def _plausibility(names: Sequence[bytes], encoding: str) -> float:
    """Return how plausible the characters that are not ASCII are, on average, from 0 to 2."""
    total, characters = 0.0, 0
    for name in names:
        text = name.decode(encoding)
        for run in _RUN.finditer(text):
            before, after = text[run.start() - 1 : run.start()], text[run.end() : run.end() + 1]
            characters += len(run[0])
            total += _western(run[0], before, after) if encoding == WESTERN else _asian(run[0], before, after, encoding)
    return total / characters if characters else 0.0


def _western(run: str, before: str, after: str) -> float:
    # Within a word, upper case does not follow lower case: that is the second byte of a longer character.
    word = before + run + after
    if any(first.islower() and second.isupper() for first, second in pairwise(word)):
        return 0.0
    return sum(_COMMON for char in run if char in _WESTERN_LETTERS) / (1 if len(run) <= 2 else 2)


def _asian(run: str, before: str, after: str, encoding: str) -> float:
    # A single character in a word of Latin letters is an accented letter and the letter after it.
    if len(run) == 1 and (before.isalpha() or after.islower()):
        return 0.0
    return sum(_weight(char, encoding) for char in run)


def _weight(char: str, encoding: str) -> float:
    if char in _COMMON_WORDS[encoding]:
        return _FREQUENT
    code = char.encode(encoding)
    if len(code) != 2:
        # A katakana of half width is one byte.
        return _RARE if "\uff61" <= char <= "\uff9f" else 0.0
    common, rare = _RANGES[encoding]
    if any(first <= code <= last for first, last in common):
        return _COMMON
    return _RARE if any(first <= code <= last for first, last in rare) else 0.0
