"""Pictures of images as PNG: the image itself, and the heat map to be laid over it; in bounded memory and time.

At most two images are decoded at once, and what is made waits for few slow readers only, so that many who ask at once
wait for each other and the memory stays bounded. An archive that does not answer stops pictures, and nothing else.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bonescreen.context import roots_here
from bonescreen.pages.dependencies import Number
from bonescreen.pages.errors import CREDENTIALS, EVERYWHERE, Problem, Responses
from bonescreen.pictures import ChangedFile, cam_of, package_of, read_gray
from bonescreen.results_table import why_out_of_scope
from db.queries import ImageRow, Study, study_of_image
from db.session import Database
from db.worklist import study_by_id
from xray.errors import ArchiveOutage, FileFault, UsageError
from xray.settings import Settings
from xray.vocabulary import ImageState, Reason, reason_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONG_SIDE = 2048
"""Of a picture, pixels, unless the full size is asked for: more than a screen shows."""

DECODES_AT_ONCE = 2
"""Each holds up to a gigabyte, see `xray.images.decode.MAX_PIXELS`."""

MOST_BYTES = 128 * 1024 * 1024
"""Of pictures that are being sent; no further one is made before there is less."""

READY_SECONDS, SENT_SECONDS = 30.0, 60.0
CHUNK_BYTES = 256 * 1024
KEPT_SIZES = 10_000
COMPRESSION = 1
"""zlib's level: a network of today is faster than a higher one."""

router = APIRouter(
    prefix="/api/v1/images/{run}/{image_id}", tags=["pictures"], responses=EVERYWHERE, dependencies=CREDENTIALS
)


class Pictures:
    """Makes pictures, a few at a time; one for each app.

    Parameters
    ----------
    settings : Settings
    database : Database
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        self._sizes: OrderedDict[str, tuple[int, int]] = OrderedDict()
        # Its threads are counted as long as they run, also those that nobody waits for any more.
        self._threads = ThreadPoolExecutor(DECODES_AT_ONCE, "pictures")
        self._turn = asyncio.Semaphore(DECODES_AT_ONCE)
        self._room = asyncio.Condition()
        self._held = 0

    async def send(self, draw: Callable[[], bytes], send: Send) -> None:
        """Draw a picture when it is its turn, and send it.

        Raises
        ------
        ArchiveOutage
            It was not ready in time.
        """
        try:
            async with asyncio.timeout(READY_SECONDS), self._turn:
                async with self._room:
                    await self._room.wait_for(lambda: self._held < MOST_BYTES)
                picture = await asyncio.get_running_loop().run_in_executor(self._threads, draw)
                self._held += len(picture)
        except TimeoutError as error:
            raise ArchiveOutage(
                "the picture was not ready in time: the archive does not answer, or many are asked for; try again"
            ) from error
        try:
            # Who reads more slowly is cut off.
            async with asyncio.timeout(SENT_SECONDS):
                await _send_in_chunks(picture, send)
        finally:
            async with self._room:
                self._held -= len(picture)
                self._room.notify_all()

    def image(self, run: int, image_id: int, *, full: bool) -> bytes:
        """Return an image as PNG, gray.

        Raises
        ------
        HTTPException
            There is no such image (404), or its file is not as it was screened (404, 409).
        ArchiveOutage
            The archive does not answer.
        """
        _, image = self._find(run, image_id)
        return _png(_to_picture(self._gray(image), full=full))

    def heat_map(self, run: int, image_id: int, *, full: bool, own_scale: bool) -> bytes:
        """Return the heat map of an image as PNG, with transparency, of the size of its picture.

        Raises
        ------
        HTTPException
            As `image`; or there is no prediction, the image is out of scope, or its model package is not installed
            here (404).
        ArchiveOutage
            The archive does not answer.
        """
        from xray.images.preprocessing import Preprocessing
        from xray.network.heatmap import evidence_at_image_size, overlay

        study, image = self._find(run, image_id)
        if image.cam is None:
            raise HTTPException(404, "the image has no prediction, so it has no heat map")
        if image.state is ImageState.OUT_OF_SCOPE:
            raise HTTPException(404, f"the image is out of scope, so it has no heat map: {why_out_of_scope(image)}")
        package, cam = package_of(self._settings, study.digest), cam_of(image)
        if package is None:
            raise HTTPException(404, f"{study.row.model} is not installed here, so its heat maps cannot be drawn")
        height, width = _size_of_picture(*self._size(image), full=full)
        evidence = evidence_at_image_size(
            cam,
            height,
            width,
            preprocessing=Preprocessing.from_id(package.card.preprocessing),
            scale=package.card.heat_map_scale,
            own_scale=own_scale,
        )
        file = BytesIO()
        overlay(evidence).save(file, "PNG", compress_level=COMPRESSION)
        return file.getvalue()

    def _find(self, run: int, image_id: int) -> tuple[Study, ImageRow]:
        study_id = study_of_image(self._database, image_id)
        try:
            study = study_by_id(self._database, run, study_id or 0)
        except UsageError:
            study = None
        image = next((each for each in study.images if each.image_id == image_id), None) if study else None
        if study is None or image is None:
            raise HTTPException(404, f"run {run} has no image {image_id}")
        if image.sha256 is None:
            why = "it is not screened yet" if image.reason is None else reason_text(image.reason)
            raise HTTPException(404, f"there is no picture of the image: {why}")
        return study, image

    def _gray(self, image: ImageRow) -> "NDArray[np.uint8]":
        try:
            gray = read_gray(image, roots_here(self._settings, self._database))
        except ChangedFile:
            text = "the file has changed since it was screened; screen its archive again"
            raise HTTPException(409, text) from None
        except FileFault as fault:
            gone = fault.reason in (Reason.VANISHED, Reason.BROKEN_LINK, Reason.OUTSIDE_ARCHIVE)
            text = f"the file cannot be read any more: {reason_text(fault.reason)}"
            raise HTTPException(404 if gone else 409, text) from fault
        self._remember_size(str(image.sha256), gray.shape[0], gray.shape[1])
        return gray

    def _size(self, image: ImageRow) -> tuple[int, int]:
        """Return an image's height and width; they follow from its content, so they are remembered by its digest."""
        known = self._sizes.get(str(image.sha256))
        if known is not None:
            return known
        height, width = self._gray(image).shape
        return height, width

    def _remember_size(self, sha256: str, height: int, width: int) -> None:
        self._sizes[sha256] = height, width
        if len(self._sizes) > KEPT_SIZES:
            self._sizes.popitem(last=False)


class PictureResponse(Response):
    """An answer that is drawn when it is its turn, and then sent.

    Parameters
    ----------
    pictures : Pictures
    draw : callable
        Returns the PNG.
    """

    media_type = "image/png"

    def __init__(self, pictures: Pictures, draw: Callable[[], bytes]) -> None:
        super().__init__()
        self._pictures, self._draw = pictures, draw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the picture."""
        await self._pictures.send(self._draw, send)


PNG: Responses = {
    200: {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}, "description": "The picture."},
    404: {"model": Problem, "description": "There is no such image or file, no prediction, or no such model here."},
    409: {"model": Problem, "description": "The file is not as it was when it was screened."},
}
Full = Annotated[bool, Query(description=f"At full size, not at {LONG_SIDE:,} pixels of the long side.")]


@router.get("/image.png", response_class=Response, responses=PNG)
async def get_image(request: Request, run: Number, image_id: Number, full: Full = False) -> Response:
    """Return an image as it was decoded for screening, as PNG in gray."""
    pictures: Pictures = request.app.state.pictures
    return PictureResponse(pictures, partial(pictures.image, run, image_id, full=full))


@router.get("/heatmap.png", response_class=Response, responses=PNG)
async def get_heat_map(
    request: Request,
    run: Number,
    image_id: Number,
    full: Full = False,
    scale: Annotated[
        Literal["card", "own"],
        Query(
            description="The model's scale, the same for all images; or the image's own, on which each map is bright."
        ),
    ] = "card",
) -> Response:
    """Return an image's heat map as PNG with transparency, of the size of the image's picture, to be laid over it."""
    pictures: Pictures = request.app.state.pictures
    return PictureResponse(pictures, partial(pictures.heat_map, run, image_id, full=full, own_scale=scale == "own"))


async def _send_in_chunks(picture: bytes, send: Send) -> None:
    """Send a picture; the server takes the next chunk when the one before has left its buffer."""
    headers = [(b"content-type", b"image/png"), (b"content-length", str(len(picture)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for start in range(0, len(picture), CHUNK_BYTES):
        chunk = picture[start : start + CHUNK_BYTES]
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _size_of_picture(height: int, width: int, *, full: bool) -> tuple[int, int]:
    scale = 1.0 if full else min(1.0, LONG_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _to_picture(gray: "NDArray[np.uint8]", *, full: bool) -> "NDArray[np.uint8]":
    from xray.images.resize import resize

    size = _size_of_picture(gray.shape[0], gray.shape[1], full=full)
    return gray if size == gray.shape else resize(gray, *size)


def _png(gray: "NDArray[np.uint8]") -> bytes:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(gray).save(file, "PNG", compress_level=COMPRESSION)
    return file.getvalue()
