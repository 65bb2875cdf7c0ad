"""Patients as keyed hashes: they show which images belong to one patient, but not who the patient is."""

import hashlib
import hmac

MIN_KEY_LENGTH = 16
"""Characters: with a key that can be guessed, anybody who has a list of patients could find them."""


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


def patient_mark(study: str, patient: str) -> str:
    """Return four hexadecimal digits that tell patients within one study apart, and identify nobody.

    They are the first of the SHA-256 of study, NUL and patient: one patient in 65,536 has the same, and the same
    patient has others in another study.
    """
    return hashlib.sha256(f"{study}\0{patient}".encode(errors="surrogatepass")).hexdigest()[:4]


def key_mark(key: bytes) -> str:
    """Return 16 hexadecimal digits that identify a key without revealing it."""
    return hmac.new(key, b"bonescreen pseudonym key", hashlib.sha256).hexdigest()[:16]
