"""Who may ask for what: checked before any route is looked for, so that a new route is closed until it is opened here.

A request needs a session or, as scripts send it, HTTP Basic. Without any user, on loopback, it needs neither; then
only names of loopback are answered, and no proxy, so that no page of the internet and no other host gets in.
A request that may change something must come from our own pages, and, unless it has credentials with it, hold the
session's CSRF token, in the header ``X-CSRF-Token`` or the form field ``csrf_token``.
"""

import hmac
import html
import ipaddress
import secrets
from base64 import b64decode
from collections.abc import Mapping
from urllib.parse import parse_qs, quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bonescreen.pages.users import TooManyGuesses, Users
from xray.errors import StorageOutage, UsageError

SIGN_IN, SIGN_OUT = "/sign-in", "/sign-out"
HEALTH, METRICS = "/healthz", "/metrics"
STATIC = "/static/"
API = "/api/"

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_FIELD, CSRF_HEADER = "csrf_token", "x-csrf-token"
FORM = "application/x-www-form-urlencoded"

LARGEST_BODY = 64 * 1024
"""Bytes; a note has at most 2,000 characters."""

HEADERS = {
    # No script and no style within a page, and nothing from elsewhere; `data:` for the icons of the API's page.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With no-referrer, browsers say that our own forms come from the origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # What shows a patient stays in no browser's and no proxy's cache.
    "Cache-Control": "no-store",
}


def csrf_token(request: Request) -> str:
    """Return the CSRF token of a request's session, which gets one if it has none."""
    session = request.session
    if CSRF_FIELD not in session:
        session[CSRF_FIELD] = secrets.token_urlsafe(32)
    return str(session[CSRF_FIELD])


class Refusal(Exception):
    """A request is not answered.

    Parameters
    ----------
    status : int
        HTTP status.
    text : str
        Why, and the way out.
    headers : mapping of str to str
    """

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text, self.headers = status, text, headers


class ResponseHeaders:
    """ASGI middleware that adds `HEADERS` to each response, unless it has them.

    Parameters
    ----------
    app : ASGIApp
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


class Access:
    """ASGI middleware that answers only who may ask; within Starlette's `SessionMiddleware`.

    Routes find in ``request.state`` the name ``reviewer``, None where nobody has given one, and whether the pages are
    ``open``, without users.

    Parameters
    ----------
    app : ASGIApp
    users : Users
    loopback : bool
        Whether the server listens on loopback only.
    """

    def __init__(self, app: ASGIApp, users: Users, *, loopback: bool) -> None:
        self._app, self._users, self._loopback = app, users, loopback
        self._had_users = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why not."""
        if scope["type"] != "http":
            # No route takes a WebSocket.
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            answer = await self._refused(request)
            if answer is None and request.method not in SAFE_METHODS:
                receive = await self._checked_body(request)
        except Refusal as refusal:
            answer = refusal_response(request, refusal)
        await (answer or self._app)(scope, receive, send)

    async def _refused(self, request: Request) -> Response | None:
        """Return what to answer instead of what was asked for; None if that may be answered."""
        state, path = request.state, request.url.path
        state.reviewer, state.open, state.basic = None, self._is_open(), False
        if state.open:
            _require_this_host(request.headers)
        if (answer := _refuse_other_sites(request)) is not None:
            return answer
        if state.open:
            state.reviewer = request.session.get("name")
            return None
        state.reviewer = await self._identify(request)
        if state.reviewer is not None or path in (HEALTH, SIGN_IN) or path.startswith(STATIC):
            return None
        for_script = path.startswith(API) or path == METRICS
        if request.method not in SAFE_METHODS or (for_script and "text/html" not in request.headers.get("accept", "")):
            raise _unauthorized(request.headers)
        asked = quote(path + (f"?{request.url.query}" if request.url.query else ""), safe="/")
        return RedirectResponse(f"{SIGN_IN}?next={asked}", 303)

    def _is_open(self) -> bool:
        try:
            names = self._users.names()
        except (UsageError, StorageOutage) as error:
            raise Refusal(503, "the users cannot be read; see the log, or run: bonescreen users list") from error
        # If the last user is removed while this runs, nobody gets in until it is started again.
        self._had_users |= bool(names)
        return self._loopback and not self._had_users

    async def _identify(self, request: Request) -> str | None:
        session = request.session
        if "user" in session and session.get("mark") == self._users.mark(session["user"]):
            return str(session["user"])
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, colon, password = b64decode(encoded.strip(), validate=True).decode().partition(":")
        except ValueError:
            raise _unauthorized(request.headers) from None
        request.state.basic = True
        if not colon or not await self.check_password(name, password):
            raise _unauthorized(request.headers)
        return name

    async def check_password(self, name: str, password: str) -> bool:
        """Tell whether a password is a user's; refuse guesses that come too fast."""
        try:
            return await self._users.check_password(name, password)
        except TooManyGuesses as error:
            raise Refusal(429, str(error), {"Retry-After": str(max(1, round(error.seconds)))}) from error

    async def _checked_body(self, request: Request) -> Receive:
        """Read a request's body, and check its CSRF token; return how the app receives the body again."""
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_BODY:
                raise Refusal(413, f"the request is larger than {LARGEST_BODY:,} bytes")
        if not request.state.basic and not _is_local_script(request):
            given = request.headers.get(CSRF_HEADER)
            if given is None and request.headers.get("content-type", "").partition(";")[0].strip().lower() == FORM:
                given = parse_qs(body.decode(errors="replace")).get(CSRF_FIELD, [None])[0]
            expected = request.session.get(CSRF_FIELD)
            if given is None or expected is None or not hmac.compare_digest(given.encode(), expected.encode()):
                raise Refusal(403, "this page is out of date: go back, load it again, and repeat what you did")
        pending: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def receive_again() -> Message:
            return pending.pop() if pending else await request.receive()

        return receive_again


def _is_local_script(request: Request) -> bool:
    """Tell whether a script of this host calls the open API: no browser does without these headers."""
    headers = request.headers
    from_browser = any(name in headers for name in ("origin", "sec-fetch-site", "cookie"))
    return bool(request.state.open) and request.url.path.startswith(API) and not from_browser


def _require_this_host(headers: Headers) -> None:
    """Refuse a request to open pages by a name that is not loopback's (DNS rebinding), or through a proxy."""
    way_out = "to open the pages to others, add a user: bonescreen users add NAME"
    if any(name in headers for name in ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")):
        raise Refusal(403, f"the pages have no users, so they answer this host only, and no proxy; {way_out}")
    try:
        name = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        known = name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        known = False
    if not known:
        raise Refusal(421, f"the pages have no users, so they answer as localhost and 127.0.0.1 only; {way_out}")


def _refuse_other_sites(request: Request) -> Response | None:
    """Refuse what another site asks for; return a page that asks again itself where a link led here."""
    headers, site = request.headers, request.headers.get("sec-fetch-site", "none")
    if request.method not in SAFE_METHODS:
        origin = headers.get("origin")
        other = origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
        if other or site not in ("same-origin", "none"):
            raise Refusal(403, "another site sent this request; a proxy in front must pass on the header Host")
        return None
    if site in ("same-origin", "none") or request.url.path.startswith(STATIC):
        return None
    if headers.get("sec-fetch-mode") != "navigate":
        raise Refusal(403, "another site asked for this")
    # Browsers send no SameSite=Strict cookie with it, so it looks signed out, and would get a session of its own.
    query = f"?{request.url.query}" if request.url.query else ""
    target = html.escape("/" + request.url.path.lstrip("/\\") + query)
    return HTMLResponse(
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={target}">'
        f'<title>bonescreen</title><a href="{target}">Continue</a>'
    )


def _unauthorized(headers: Headers) -> Refusal:
    # A browser would open a window of its own, and then send the password with the requests of other sites too.
    script = "sec-fetch-site" not in headers
    return Refusal(401, "sign in first", {"WWW-Authenticate": 'Basic realm="bonescreen"'} if script else None)


def refusal_response(request: Request, refusal: Refusal) -> Response:
    """Return a refusal as an answer: JSON of the API, else text, which nobody's name or file is in."""
    if request.url.path.startswith(API):
        return JSONResponse({"detail": refusal.text}, refusal.status, refusal.headers)
    headers = dict(refusal.headers or {})
    if refusal.status == 401 and "hx-request" in request.headers:
        headers["HX-Redirect"] = SIGN_IN
    return PlainTextResponse(f"{refusal.text}\n", refusal.status, headers)
