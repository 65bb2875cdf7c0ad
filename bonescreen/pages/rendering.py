"""HTML from the templates in ``bonescreen/pages/templates``, with what each page needs."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from bonescreen.pages.access import CSRF_FIELD, csrf_token
from bonescreen.pages.wording import FILTERS
from xray.vocabulary import RESEARCH_NOTICE

TEMPLATES = Environment(
    loader=PackageLoader("bonescreen.pages"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters.update(FILTERS)
TEMPLATES.globals["notice"] = RESEARCH_NOTICE


def render(request: Request, template: str, /, status: int = 200, **context: Any) -> HTMLResponse:
    """Render a template.

    Besides `context`, a template has ``request``; ``reviewer``, a name or None; ``is_open``, whether the pages have no
    users; ``notice``, the research notice; ``csrf_field()``, the hidden field that each form with ``method="post"``
    needs; and ``csrf_token()``, for the header ``X-CSRF-Token``.

    Parameters
    ----------
    request : Request
    template : str
        Its file name.
    status : int
        HTTP status.
    **context
        The template's variables.
    """
    page = TEMPLATES.get_template(template).render(
        {
            "request": request,
            "reviewer": request.state.reviewer,
            "is_open": request.state.open,
            "csrf_token": lambda: csrf_token(request),
            "csrf_field": lambda: Markup('<input type="hidden" name="{}" value="{}">').format(
                CSRF_FIELD, csrf_token(request)
            ),
            **context,
        }
    )
    return HTMLResponse(page, status)
