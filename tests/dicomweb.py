"""Instances for a DICOMweb service, and the service as the settings name it."""

from pathlib import Path

from tests.archives import image_pixels
from tests.dicoms import dicom
from tests.faulty_proxy import FaultyProxy
from tests.orthanc import PASSWORD, USER
from xray.dicomweb import DicomWebService, parse_service


def instance(study: int, number: int = 1, *, side: int = 24, **elements: object) -> bytes:
    """Return an image of a study of its own pixels, in the study's only series unless the elements name another."""
    uid = f"1.2.{study}"
    uids = {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1", "SOPInstanceUID": f"{uid}.1.{number}"}
    pixels = image_pixels(100 * study + number, side, side)
    named = {"PatientID": f"P{study}", "PatientName": f"Doe^{study}", "StudyDate": "20260115", "Modality": "DX"}
    return dicom(pixels, **{**uids, **named, **elements})


def path(study: int, number: int = 1) -> str:
    """Return that image's path in the archive."""
    return f"1.2.{study}/1.2.{study}.1/1.2.{study}.1.{number}"


def write_access(folder: Path, url: str, password: str = PASSWORD) -> Path:
    """Write the file of BONESCREEN_DICOMWEB for a service."""
    access = folder / "dicomweb.toml"
    access.write_text(f'["{url}"]\nuser = "{USER}"\npassword = "{password}"\n')
    return access


def service_of(proxy: FaultyProxy, folder: Path) -> DicomWebService:
    """Return the service behind a proxy, with its password."""
    return parse_service(f"dicomweb+{proxy.dicomweb}", write_access(folder, proxy.dicomweb))
