"""Body part, view and laterality of a DICOM image, in the terms of ``xray.vocabulary``."""

import re
from collections.abc import Mapping, Sequence

from xray.body_parts import body_part_of
from xray.images.dicom import tags
from xray.images.dicom.data_set import DataSet

# PS3.16 CID 4031 and Annex L: SNOMED CT codes, and the SNOMED RT codes of older files.
_REGIONS = {
    "16953009": "ELBOW", "T-15430": "ELBOW", "7569003": "FINGER", "T-D8800": "FINGER", "76505004": "FINGER",
    "T-D8810": "FINGER", "14975008": "FOREARM", "T-D8500": "FOREARM", "110535000": "FOREARM", "T-12403": "FOREARM",
    "85562004": "HAND", "T-D8700": "HAND", "85050009": "HUMERUS", "T-12410": "HUMERUS", "40983000": "HUMERUS",
    "T-D8200": "HUMERUS", "16982005": "SHOULDER", "T-D2220": "SHOULDER", "74670003": "WRIST", "T-15460": "WRIST",
    "70258002": "ANKLE", "T-15750": "ANKLE", "51299004": "CLAVICLE", "T-12310": "CLAVICLE", "71341001": "FEMUR",
    "T-12710": "FEMUR", "68367000": "FEMUR", "T-D9100": "FEMUR", "56459004": "FOOT", "T-D9700": "FOOT",
    "29836001": "HIP", "T-D2500": "HIP", "24136001": "HIP", "T-15710": "HIP", "72696002": "KNEE", "T-D9200": "KNEE",
    "49076000": "KNEE", "T-15720": "KNEE", "30021000": "LEG", "T-D9400": "LEG", "110536004": "LEG", "T-12701": "LEG",
    "816092008": "PELVIS", "12921003": "PELVIS", "T-D6000": "PELVIS", "29707007": "TOE", "T-D9800": "TOE",
}  # fmt: skip
# PS3.16 CID 4010, as terms of View Position (PS3.3 C.8.1.1).
_VIEWS = {
    "399348003": "AP", "R-10206": "AP", "272479007": "PA", "R-40888": "PA", "R-10214": "PA", "399173006": "LL",
    "R-10236": "LL", "399198007": "RL", "R-10232": "RL", "399356000": "RAO", "R-40985": "RAO", "399135007": "LAO",
    "R-10220": "LAO", "399038007": "RPO", "R-10210": "RPO", "399006002": "LPO", "R-10212": "LPO",
    "399067008": "LATERAL", "R-102CD": "LATERAL", "399182000": "OBLIQUE", "R-102C1": "OBLIQUE",
    "399061009": "AXIAL", "R-10241": "AXIAL",
}  # fmt: skip


def body_part(data_set: DataSet, site: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return the body part, and the side if the term names one, as `xray.body_parts.body_part_of` does.

    Body Part Examined (0018,0015) comes before Anatomic Region Sequence (0008,2218), whose code decides, or its meaning
    if the code is not known.

    Parameters
    ----------
    data_set : DataSet
        With the elements `xray.images.dicom.tags.HEADER_ELEMENTS`.
    site : mapping of str to str
        A site's own terms.
    """
    part, side = body_part_of(data_set.decoded(tags.BODY_PART_EXAMINED), site)
    if part is not None:
        return part, side
    regions = data_set.items.get(tags.ANATOMIC_REGION_SEQUENCE, [])
    meanings = (body_part_of(item.text(tags.CODE_MEANING), site)[0] for item in regions)
    return _coded_term(regions, _REGIONS) or next(filter(None, meanings), None), side


def view(data_set: DataSet) -> str | None:
    """Return View Position (0018,5101), or the meaning of the code in View Code Sequence (0054,0220)."""
    term = _term(" ".join(_words(data_set.text(tags.VIEW_POSITION))))
    return term or _coded_term(data_set.items.get(tags.VIEW_CODE_SEQUENCE, []), _VIEWS)


def laterality(data_set: DataSet) -> str | None:
    """Return Image Laterality (0020,0062), or else Laterality (0020,0060), which is the series'."""
    sides = (data_set.text(tag).upper() for tag in (tags.IMAGE_LATERALITY, tags.LATERALITY))
    return next((side for side in sides if side in ("L", "R", "B", "U")), None)


def _words(text: str) -> list[str]:
    return re.sub(r"[\s_,;./-]+", " ", text.upper()).split()


def _term(text: str) -> str | None:
    # PS3.5 6.2: a code string has at most 16 characters.
    return text if re.fullmatch(r"[A-Z0-9 ]{1,16}", text) else None


def _coded_term(items: Sequence[DataSet], meanings: Mapping[str, str]) -> str | None:
    codes = (item.text(tags.CODE_VALUE) for item in items)
    return next((meanings[code] for code in codes if code in meanings), None)
