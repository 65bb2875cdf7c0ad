"""Patients as keyed hashes: they show which images belong to one patient, but not who the patient is; UIDs likewise."""

import hashlib
import hmac
import re
import uuid
from collections.abc import Iterable

MIN_KEY_LENGTH = 16
"""Characters: with a key that can be guessed, anybody who has a list of patients could find them."""

_NONE = "...."
"""In a mark, a number or name that is not known."""


def pseudonym(key: bytes, patient: str, issuer: str = "") -> str:
    """Hash a patient's identity: HMAC-SHA256 (RFC 2104) of issuer, NUL and patient, the first 32 hexadecimal digits.

    Parameters
    ----------
    key : bytes
        The pseudonym key. It must be kept secret: with it, one can test whether a known patient is among the hashes.
    patient : str
        DICOM's Patient ID (0010,0020), or the patient column of a manifest.
    issuer : str
        DICOM's Issuer of Patient ID (0010,0021), as two hospitals may use the same number.
    """
    return hmac.new(key, f"{issuer}\0{patient}".encode(), hashlib.sha256).hexdigest()[:32]


def pseudonymous_uid(key: bytes, uid: str) -> str:
    """Replace a UID by a keyed one: the same UID always by the same, and nobody without the key can tell of which.

    It is ``2.25.`` and a UUID as a decimal number (PS3.5 B.2), made of the first 16 bytes of an HMAC-SHA256 whose key
    is derived from the pseudonym key, so that no UID is ever hashed as a patient is.

    Parameters
    ----------
    key : bytes
        The pseudonym key.
    uid : str
        DICOM's UID, or another text that identifies what it names.
    """
    own_key = hmac.new(key, b"bonescreen UIDs", hashlib.sha256).digest()
    digest = hmac.new(own_key, uid.encode(errors="surrogatepass"), hashlib.sha256).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


def patient_mark(study: str, number: str, name: str = "") -> str | None:
    """Return eight characters that tell patients within one study apart, and name nobody; None without a patient.

    They are four hexadecimal digits of the patient's number and four of the name, or `_NONE` where there is none: the
    first of the SHA-256 of study, NUL and the text. One number, and one name, in 65,536 has the same, and the same
    patient has others in another study. How a text is written does not matter: case, punctuation, leading zeros.
    """
    mark = _text_mark(study, number) + _text_mark(study, name)
    return None if mark == 2 * _NONE else mark


def count_patients(marks: Iterable[str | None]) -> int:
    """Count the different patients of a study by the marks of its images.

    Numbers count, and of the images without one the names that none with a number has; an image that names nobody is
    the others' patient.
    """
    split = {(mark[:4], mark[4:]) for mark in marks if mark}
    numbers = {number for number, _ in split if number != _NONE}
    names = {name for number, name in split if number != _NONE}
    return len(numbers) + len({name for number, name in split if number == _NONE} - names)


def _text_mark(study: str, text: str) -> str:
    plain = re.sub(r"[\W_]+", "", text).upper().lstrip("0")
    return hashlib.sha256(f"{study}\0{plain}".encode(errors="surrogatepass")).hexdigest()[:4] if plain else _NONE


def key_mark(key: bytes) -> str:
    """Return 16 hexadecimal digits that identify a key without revealing it."""
    return hmac.new(key, b"bonescreen pseudonym key", hashlib.sha256).hexdigest()[:16]
