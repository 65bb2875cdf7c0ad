"""What a long command says when Ctrl-C or an outage stops it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from xray.errors import Outage


@contextmanager
def telling_how_far(tell: Callable[[], object]) -> Iterator[None]:
    """Call `tell` if the work within is stopped; Ctrl-C then ends the command with exit code 130."""
    try:
        yield
    except Outage:
        tell()
        raise
    except KeyboardInterrupt:
        tell()
        raise typer.Exit(130) from None
