"""Sign in and out, and the sessions: signed cookies, which a restart does not end."""

import hashlib
import os
import secrets
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Form, Query, Request
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bonescreen.pages.access import SIGN_IN, SIGN_OUT
from bonescreen.pages.rendering import render
from bonescreen.pages.users import TooManyGuesses, Users, check_name
from xray.errors import StorageOutage, UsageError

KEY_FILE = "session.key"
KEY_BYTES = 32
SESSION_SECONDS = 12 * 3600

router = APIRouter(include_in_schema=False)


def session_key(home: Path) -> str:
    """Return the key that sessions are signed with; it is made once, and only its owner can read it.

    Raises
    ------
    StorageOutage
        It cannot be read or written.
    """
    file = home / KEY_FILE
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            pass
        else:
            with open(descriptor, "w") as made:
                made.write(secrets.token_hex(KEY_BYTES))
        key = file.read_text().strip()
    except OSError as error:
        raise StorageOutage(f"{file} cannot be read or written ({error.strerror}); set BONESCREEN_HOME") from error
    if len(key) != 2 * KEY_BYTES:
        raise StorageOutage(f"{file} is damaged; delete it, and everybody signs in again")
    return key


class Sessions:
    """ASGI middleware: Starlette's sessions, in a cookie that HTTPS alone may send where the page came by HTTPS.

    Parameters
    ----------
    app : ASGIApp
    key : str
        See `session_key`.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        # Cookies do not tell ports apart, and two homes may be served on one host.
        name = f"bonescreen-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        self._plain, self._secure = (
            SessionMiddleware(app, key, name, SESSION_SECONDS, same_site="strict", https_only=secure)
            for secure in (False, True)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        secure = scope["type"] == "http" and (
            scope["scheme"] == "https" or (b"x-forwarded-proto", b"https") in scope["headers"]
        )
        await (self._secure if secure else self._plain)(scope, receive, send)


@router.get(SIGN_IN)
def sign_in_page(request: Request, next: Annotated[str, Query()] = "/") -> Response:
    """Ask for name and password; without users, for a name only."""
    return render(request, "sign_in.html", next=local_path(next), name="", problem=None)


@router.post(SIGN_IN)
async def sign_in(
    request: Request,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",
) -> Response:
    """Begin a session of a user; without users, note the reviewer's name."""

    def again(status: int, problem: str) -> Response:
        return render(request, "sign_in.html", status, next=local_path(next), name=name, problem=problem)

    users: Users = request.app.state.users
    if request.state.open:
        try:
            session = {"name": check_name(name.strip())}
        except UsageError as error:
            return again(422, str(error))
    else:
        try:
            if not await users.check_password(name, password):
                return again(403, "This is not a user's name and password.")
        except TooManyGuesses as error:
            page = again(429, f"{error}."[0].upper() + f"{error}."[1:])
            page.headers["Retry-After"] = str(max(1, round(error.seconds)))
            return page
        session = {"user": name, "mark": str(users.mark(name))}
    # Nothing of the session before, whose CSRF token somebody else may know.
    request.session.clear()
    request.session.update(session)
    return RedirectResponse(local_path(next), 303)


@router.post(SIGN_OUT)
def sign_out(request: Request) -> Response:
    """End the session."""
    request.session.clear()
    return RedirectResponse(SIGN_IN, 303)


def local_path(url: str) -> str:
    """Return a path on this server to go on to, or the first page's where the URL leads elsewhere."""
    parts = urlsplit(url) if url.isprintable() else None
    local = parts is not None and not parts.scheme and not parts.netloc and url.startswith("/")
    # Browsers take a backslash for a slash.
    return url if local and not url.startswith(("//", "/\\")) else "/"
