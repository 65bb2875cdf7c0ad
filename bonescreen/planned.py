"""What ``--dry-run`` does: reads archives as a scan would, says what would happen, and changes nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bonescreen.context import open_ledger
from bonescreen.scanned import plan_lines, raise_last, scan_each
from bonescreen.show import printable, say
from bonescreen.stack import name_archives, require_configured
from db.runs import archive_roots
from db.session import Database
from producer.find import Source
from producer.plan import plan_archive
from producer.report import Plan
from xray.package import load_package
from xray.settings import Settings
from xray.studies import Layout


def show_plans(settings: Settings, paths: Sequence[Path], layout: Layout, *, for_workers: bool) -> None:
    """Print what scanning archives would find, and what the configured model would have to screen.

    With `for_workers` what `enqueue` would refuse is refused: archives that workers elsewhere could not find.

    Raises
    ------
    UsageError
        A scan would refuse an archive; the others are shown.
    """
    digest = load_package(settings.model).digest
    with _ledger_if_any(settings) as database:
        archives = name_archives(settings, archive_roots(database) if database else {}, paths)
        if for_workers:
            require_configured(settings, archives)
        _, errors = scan_each(archives, partial(_plan, settings, database, layout, digest))
    say("Nothing was changed: this was a dry run.")
    raise_last(errors)


@contextmanager
def _ledger_if_any(settings: Settings) -> Iterator[Database | None]:
    if settings.database_url is None and not (settings.home / "bonescreen.db").exists():
        yield None
        return
    with open_ledger(settings) as database:
        yield database


def _plan(settings: Settings, database: Database | None, layout: Layout, digest: str, name: str, root: Path) -> Plan:
    with Console(stderr=True).status(Text(f"Reading {printable(str(root))} ...")):
        plan = plan_archive(database, name, Source.configured(root, settings, layout), digest)
    for line in plan_lines(plan, root):
        say(line)
    return plan
