"""OpenAPI's description of the API, and Swagger UI to read and try it; nothing of it comes from another server."""

from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from bonescreen.pages.access import API, STATIC, csrf_token

OPENAPI, DOCS = f"{API}openapi.json", f"{API}docs"
ASSETS = f"{STATIC}api-docs"

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API - bonescreen</title>
<link rel="icon" href="{static}favicon.svg">
<link rel="stylesheet" href="{assets}/swagger-ui.css">
</head>
<body>
<div id="api" data-description="{openapi}" data-csrf-token="{token}"></div>
<script src="{assets}/swagger-ui-bundle.js"></script>
<script src="{static}api_docs.js"></script>
</body>
</html>
"""

router = APIRouter(include_in_schema=False)


def assets() -> StaticFiles:
    """Return Swagger UI's files, as the package fastapi-offline has them."""
    return StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static")


@router.get(OPENAPI)
def openapi(request: Request) -> Response:
    """Return OpenAPI's description."""
    return JSONResponse(request.app.openapi())


@router.get(DOCS)
def docs(request: Request) -> Response:
    """Show Swagger UI."""
    token = csrf_token(request)
    return HTMLResponse(PAGE.format(static=STATIC, assets=ASSETS, openapi=OPENAPI, token=token))
