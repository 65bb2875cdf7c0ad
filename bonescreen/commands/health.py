"""Whether this host's processes are alive: for a container's health check."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated

import typer

from bonescreen.context import open_ledger, settings_here
from bonescreen.show import say
from db.heartbeats import Heartbeat, list_heartbeats


class Role(StrEnum):
    """What a process does, as its heartbeats say."""

    WORKER = "worker"
    FEEDER = "feeder"


def health(roles: Annotated[list[Role], typer.Argument(metavar="ROLE...", help="worker, feeder, or both.")]) -> None:
    """Tell whether this host has a process of each role that is alive in the database and waits for nothing.

    The exit code is 0 if so, 1 if not or when the database does not answer.

    Example: bonescreen health worker feeder
    """
    settings = settings_here()
    with open_ledger(settings) as database:
        processes = list_heartbeats(database)
    names = {Role.WORKER: settings.worker_signature, Role.FEEDER: socket.gethostname()}
    found = list(faults(processes, {role: names[role] for role in roles}))
    for fault in found:
        say(fault)
    if found:
        raise typer.Exit(1)
    say(f"Alive here: {', '.join(roles)}.")


def faults(processes: Sequence[Heartbeat], names: Mapping[Role, str]) -> Iterator[str]:
    """Yield a line for each role that no process of this host fills, and for each process that waits.

    Parameters
    ----------
    processes : sequence of Heartbeat
        Of every host; a process is listed as ``name:pid``.
    names : mapping of Role to str
        The roles looked at, and this host's name in each.
    """
    for role, name in names.items():
        here = [
            process
            for process in processes
            if process.alive and process.role == role and process.name.rpartition(":")[0] == name
        ]
        if not here:
            yield f"No {role} {name} is alive."
        yield from (f"The {role} {process.name} waits: {process.problem}" for process in here if process.problem)
