"""Where an archive is: a folder or file of this host, or a DICOMweb service."""

from pathlib import Path

from xray.dicomweb import DicomWebService, is_service, parse_service

Root = Path | DicomWebService
"""An archive's root; as text, the database keeps it and ``BONESCREEN_ARCHIVES`` names it."""


def parse_root(text: str, access: Path | None = None) -> Root:
    """Read the text of a root.

    Parameters
    ----------
    text : str
        A path, or ``dicomweb+https://host/path``.
    access : Path or None
        The file with credentials of DICOMweb services, see `xray.dicomweb.Access`.

    Raises
    ------
    UsageError
        As `parse_service`.
    """
    return parse_service(text, access) if is_service(text) else Path(text)
