"""Draw every file of a folder as screening sees it, in one picture, to be looked at.

    python -m benchmarks.contact_sheet FOLDER -o sheet.png

Each image has its name and, for DICOM, its transfer syntax; an unreadable file has its reason. Bone must be bright.
"""

import argparse
import io
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from pydicom.uid import UID

from xray.errors import FileFault
from xray.images.decode import open_image
from xray.images.dicom import tags
from xray.images.dicom.header import open_radiograph
from xray.images.preprocessing import Preprocessing, load

SIDE, CAPTION, COLUMNS = 300, 64, 6


def transfer_syntax(data: bytes) -> str:
    """Name the transfer syntax of a DICOM radiograph; empty for other files."""
    try:
        return UID(open_radiograph(io.BytesIO(data), tags.PIXEL_ELEMENTS).transfer_syntax).name
    except FileFault:
        return ""


def cell(path: Path) -> Image.Image:
    """Draw one file."""
    data = path.read_bytes()
    picture = Image.new("L", (SIDE, SIDE + CAPTION), 40)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    try:
        picture.paste(Image.fromarray(load(open_image(data), Preprocessing(SIDE, "pad"))), (0, 0))
    except FileFault as fault:
        draw.multiline_text((10, 100), "\n".join(textwrap.wrap(str(fault), 42)), 255, font)
    lines = [path.name[:44], *textwrap.wrap(transfer_syntax(data), 44)]
    draw.multiline_text((4, SIDE + 2), "\n".join(lines), 255, font)
    return picture


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    chosen = parser.parse_args()
    cells = [cell(path) for path in sorted(chosen.folder.rglob("*")) if path.is_file()]
    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("L", (COLUMNS * (SIDE + 6), rows * (SIDE + CAPTION + 6)))
    for number, picture in enumerate(cells):
        row, column = divmod(number, COLUMNS)
        sheet.paste(picture, (column * (SIDE + 6), row * (SIDE + CAPTION + 6)))
    sheet.save(chosen.output)
    print(f"{len(cells)} files: {chosen.output}")


if __name__ == "__main__":
    main()
