"""Body parts as people write them, in the terms of `xray.vocabulary.BODY_PARTS`; and a site's own terms for them."""

import csv
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from xray.errors import UsageError
from xray.vocabulary import BODY_PARTS

MAX_TERM = 20
"""Characters of a term that are kept. DICOM's code strings have 16 (PS3.5 6.2), but people write more."""

MAX_SITE_TERMS = 10_000


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


# A bone or joint lies in the part that a radiograph of it shows: the terms of PS3.16 Annex L, and what people write.
_PARTS = {
    "HAND": "HANDS METACARPAL METACARPALS METACARPUS",
    "FINGER": "FINGERS THUMB THUMBS POLLEX",
    "WRIST": "WRISTS CARPAL CARPALS CARPUS SCAPHOID LUNATE HAMATE CAPITATE PISIFORM TRIQUETRUM TRAPEZIUM",
    "FOREARM": "FOREARMS RADIUS ULNA RADIUSULNA LOWERARM ANTEBRACHIUM",
    "ELBOW": "ELBOWS OLECRANON",
    "HUMERUS": "HUMERI UPPERARM UPPERARMS ARM ARMS",
    "SHOULDER": "SHOULDERS SCAPULA SCAPULAE ACJOINT ACJOINTS ACROMION ACROMIOCLAVICULAR CORACOID GLENOID GLENOHUMERAL",
    "CLAVICLE": "CLAVICLES CLAVICULA COLLARBONE SCJOINT SCJOINTS STERNOCLAVICULAR",
    "PELVIS": "ILIUM ISCHIUM PUBIS SIJOINT SIJOINTS SACROILIAC SYMPHYSIS",
    "HIP": "HIPS ACETABULUM",
    "FEMUR": "FEMURS FEMORA THIGH THIGHS",
    "KNEE": "KNEES PATELLA PATELLAE KNEECAP",
    "LEG": "LEGS LOWERLEG LOWERLEGS TIBIA FIBULA TIBIAFIBULA TIBFIB SHIN CALF CRUS",
    "ANKLE": "ANKLES TALUS MALLEOLUS MALLEOLI",
    "FOOT": """FEET CALCANEUS CALCANEUM HEEL HEELS OSCALCIS TARSUS TARSAL TARSALS METATARSAL METATARSALS METATARSUS
            CUBOID CUNEIFORM CUNEIFORMS""",
    "TOE": "TOES HALLUX",
}
_PART_OF = {word: part for part, words in _PARTS.items() for word in (part, *words.split())}
# Written as one of the words above before the words are looked up.
_PHRASES = {
    "UPPER ARM": "UPPERARM", "LOWER ARM": "LOWERARM", "LOWER LEG": "LOWERLEG", "TIB FIB": "TIBFIB",
    "COLLAR BONE": "COLLARBONE", "SHOULDER BLADE": "SCAPULA", "AC JOINT": "ACJOINT", "SC JOINT": "SCJOINT",
    "SI JOINT": "SIJOINT", "AC JOINTS": "ACJOINT", "SC JOINTS": "SCJOINT", "SI JOINTS": "SIJOINT",
    "OS CALCIS": "OSCALCIS", "RADIAL HEAD": "ELBOW", "FEMORAL NECK": "HIP", "KNEE CAP": "KNEECAP",
    "GREAT TOE": "TOE", "BIG TOE": "TOE",
}  # fmt: skip
_PHRASE = re.compile(r"\b(?:" + "|".join(sorted(_PHRASES, key=len, reverse=True)) + r")\b")

# Also German, French, Italian and Spanish words, as in "HAND RE".
_SIDE_WORDS = {
    "L": "L LT LEFT LI LINKS GAUCHE SINISTRA IZQUIERDA IZQUIERDO IZQ",
    "R": "R RT RIGHT RE RECHTS DROIT DROITE DESTRA DERECHA DERECHO DER",
    "B": "B BOTH BILAT BILATERAL BIL BEIDE BDS BEIDSEITS",
}
_SIDES = {word: side for side, words in _SIDE_WORDS.items() for word in words.split()}

_UNSPECIFIC = _listed(
    """EXTREMITY EXTREMITIES EXTR EXT UPPER LOWER UE LE LIMB LIMBS EXM UP LOW BONE BONES SKELETON JOINT JOINTS OTHER
    UNKNOWN NONE UNDEFINED UNSPECIFIED"""
)
"""A term of these words alone names no body part."""

_VIEWS = _listed(
    """AP PA DP PD LAT LATERAL LL RL ML LM OBL OBLIQUE OBLIQUES AX AXIAL TANGENTIAL SKYLINE SUNRISE MERCHANT MORTISE
    NOTCH PALMAR VOLAR DORSAL PLANTAR MEDIAL DORSOPALMAR DORSOPLANTAR INT INTERNAL EXTERNAL ROT ROTATION FLEXION
    EXTENSION NEUTRAL FROG FROGLEG Y STANDING SITTING SUPINE PRONE WB WEIGHT BEARING WEIGHTBEARING STRESS DIGITAL EBENE
    EBENEN SEITLICH FACE PROFIL"""
)
_NUMBERS = _listed(
    """VIEW VIEWS VW VWS V MIN MINIMUM MAX ONE TWO THREE FOUR FIVE SINGLE FIRST SECOND THIRD FOURTH FIFTH INDEX MIDDLE
    RING LITTLE SMALL PLUS MORE LESS THAN OR AND WITH WITHOUT OF THE UNILATERAL"""
)
_EXAMINATIONS = _listed(
    """XR XRAY X RAY RX CR DX DR RG RADIOGRAPH PLAIN ROUTINE COMPLETE LIMITED FULL SERIES STUDY EXAM EXAMINATION
    PORTABLE MOBILE POST OP POSTOP PREOP CAST TRAUMA"""
)
_IGNORED = _VIEWS | _NUMBERS | _EXAMINATIONS
_PLACES = _listed("PROXIMAL PROX DISTAL DIST MID SHAFT BASE HEAD NECK")
"""Beside a part these say where in it; alone some are parts of the body."""

_NUMBER = re.compile(r"[0-9]+(ST|ND|RD|TH|V|VW|VWS|VIEW|VIEWS)?")


def body_part_of(text: str, site: Mapping[str, str] = MappingProxyType({})) -> tuple[str | None, str | None]:
    """Return the body part that a text names, and the side if it names one, as ``HAND LT`` does.

    A part beside words for a side, a view or a number is that part (``HAND 2 VIEWS``); a bone is the part that holds
    it (``RADIUS``: ``FOREARM``). A text with any other word, such as ``CHEST``, is returned as it is written, without
    side, view and number, so that the image is shown as out of scope. A text that names no part, such as ``EXTREMITY``,
    is ignored.

    Parameters
    ----------
    text : str
        As in Body Part Examined (0018,0015), or in a manifest.
    site : mapping of str to str
        A site's own terms, as `read_site_terms` returns them; they come first.

    Returns
    -------
    part : str or None
        Upper case, at most `MAX_TERM` characters; one of `BODY_PARTS` if it is known.
    side : {"L", "R", "B"} or None
        Left, right or both.
    """
    words = _words(text)
    if (part := site.get(" ".join(words))) is not None:
        return part, _side(words)
    named = [word for word in words if word not in _SIDES and word not in _IGNORED and not _NUMBER.fullmatch(word)]
    if (part := site.get(" ".join(named))) is not None:
        return part, _side(words)
    known = [_PART_OF[word] for word in named if word in _PART_OF]
    if known and all(word in _PART_OF or word in _UNSPECIFIC or word in _PLACES for word in named):
        return known[0], _side(words)
    if set(named) <= _UNSPECIFIC:
        return None, _side(words)
    return " ".join(named)[:MAX_TERM].strip(), _side(words)


def read_site_terms(path: Path) -> dict[str, str]:
    """Read a site's own terms for body parts: a CSV with the columns ``term,part``.

    Parameters
    ----------
    path : Path
        UTF-8, with or without a byte order mark, separated by commas or semicolons.

    Returns
    -------
    dict of str to str
        Parts of `BODY_PARTS`, by term as `body_part_of` looks it up.

    Raises
    ------
    UsageError
        The file cannot be read, or a line is wrong; the text names it.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = file.read(2**20).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"BONESCREEN_BODY_PARTS: {path} cannot be read: {reason}") from error
    delimiter = ";" if lines and ";" in lines[0] and "," not in lines[0] else ","
    rows = list(csv.reader(lines, delimiter=delimiter))
    if not rows or [cell.strip().lower() for cell in rows[0]] != ["term", "part"]:
        raise UsageError(f"BONESCREEN_BODY_PARTS: the first line of {path} must be: term,part")
    found: dict[str, str] = {}
    for number, row in enumerate(rows[1 : MAX_SITE_TERMS + 1], 2):
        if not any(cell.strip() for cell in row):
            continue
        term, part = " ".join(_words(row[0])), row[1].strip().upper() if len(row) == 2 else ""
        if not term or part not in BODY_PARTS:
            known = ", ".join(BODY_PARTS)
            raise UsageError(f"BONESCREEN_BODY_PARTS: line {number} of {path} must be a term and one of: {known}")
        if found.setdefault(term, part) != part:
            raise UsageError(f"BONESCREEN_BODY_PARTS: line {number} of {path} gives the term {term!r} a second part")
    return found


def _words(text: str) -> list[str]:
    plural = text.upper().replace("(S)", "S")
    words = " ".join(re.sub(r"[\W_]+", " ", plural).split())
    return _PHRASE.sub(lambda match: _PHRASES[match[0]], words).split()


def _side(words: list[str]) -> str | None:
    sides = {_SIDES[word] for word in words if word in _SIDES}
    return sides.pop() if len(sides) == 1 else "B" if sides else None
