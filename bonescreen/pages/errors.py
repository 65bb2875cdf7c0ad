"""How errors become answers: a page that says what happened, or JSON where the API was asked; and their description."""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBasic
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from bonescreen.pages.access import API
from bonescreen.pages.rendering import render
from xray.errors import Outage, PackageError, UsageError

RETRY_SECONDS = 10


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str


class WrongPart(BaseModel):
    """What is wrong with a part of a request, such as ``["query", "limit"]``."""

    loc: list[str | int]
    msg: str
    type: str


class WrongParts(BaseModel):
    """What is wrong with a request."""

    detail: list[WrongPart] | str


Responses = dict[int | str, dict[str, Any]]
EVERYWHERE: Responses = {
    401: {"model": Problem, "description": "Name and password are missing or wrong."},
    422: {"model": WrongParts, "description": "A part of the request is not as described."},
    429: {"model": Problem, "description": "Too many wrong passwords; the header Retry-After says how long to wait."},
    503: {"model": Problem, "description": "The database or the archive does not answer; try again later."},
}
"""What any request to the API may be answered with."""

CREDENTIALS = [Depends(HTTPBasic(auto_error=False, description="A user that `bonescreen users add` has added."))]
"""Describes what `bonescreen.pages.access` has checked by then."""

CHANGES: Responses = {
    400: {"model": Problem, "description": "The body is no JSON."},
    403: {"model": Problem, "description": "Another site sent the request, or the session's token is missing."},
    413: {"model": Problem, "description": "The body is too large."},
}
"""What a request that changes something may be answered with besides."""

NOT_FOUND: Responses = {404: {"model": Problem, "description": "There is no such thing."}}
CONFLICT: Responses = {409: {"model": Problem, "description": "It is not in a state for this."}}


def add_error_handlers(app: FastAPI) -> None:
    """Let an app answer our errors, FastAPI's and Starlette's."""
    for kind, answer in (
        (HTTPException, _http_error),
        (RequestValidationError, _invalid),
        (UsageError, _usage_error),
        (PackageError, _package_error),
        (Outage, _outage),
    ):
        app.add_exception_handler(kind, answer)


def _http_error(request: Request, error: Any) -> Response:
    return _problem(request, error.status_code, str(error.detail), error.headers)


def _usage_error(request: Request, error: Exception) -> Response:
    return _problem(request, 422, str(error))


def _package_error(request: Request, error: Exception) -> Response:
    return _problem(request, 404, str(error))


def _outage(request: Request, error: Exception) -> Response:
    return _problem(request, 503, str(error), {"Retry-After": str(RETRY_SECONDS)})


def _invalid(request: Request, error: Any) -> Response:
    if not request.url.path.startswith(API):
        return _problem(request, 404, "There is no such page.")
    # Not what was given, which JSON may hold and UTF-8 may not.
    wrong = [{name: each[name] for name in ("loc", "msg", "type")} for each in error.errors()]
    return Response(json.dumps({"detail": wrong}), 422, media_type="application/json")


def _problem(request: Request, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    if request.url.path.startswith(API):
        return JSONResponse({"detail": text}, status, headers)
    page = render(request, "problem.html", status, text=text)
    page.headers.update(headers or {})
    return page
