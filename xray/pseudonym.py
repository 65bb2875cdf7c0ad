"""Patients as keyed hashes: films of one patient can be told to belong together, and nobody can tell whose they are."""

import hashlib
import hmac

SHORTEST_KEY = 16
"""Characters: a key that can be guessed lets whoever has a list of patients find them."""


def pseudonym(key: bytes, patient: str, issuer: str = "") -> str:
    """Hash who a patient is: HMAC-SHA256 (RFC 2104) of issuer, NUL and patient, the first 32 hexadecimal digits.

    Parameters
    ----------
    key : bytes
        The pseudonym key; whoever has it can find out whether a patient they know is among the hashes.
    patient : str
        DICOM's Patient ID (0010,0020), or what a manifest calls the patient.
    issuer : str
        DICOM's Issuer of Patient ID (0010,0021), as two hospitals may give the same number.
    """
    return hmac.new(key, f"{issuer}\0{patient}".encode(), hashlib.sha256).hexdigest()[:32]


def key_mark(key: bytes) -> str:
    """Return 16 hexadecimal digits that tell one key from another and do not give it away."""
    return hmac.new(key, b"bonescreen pseudonym key", hashlib.sha256).hexdigest()[:16]
