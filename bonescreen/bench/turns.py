"""Settings that take turns: each in a process of its own, which works when it is told to and answers with numbers.

The speed of a machine changes while one measures. Each round measures all settings, one after the other, so that the
ratio of two settings in one round has seen the same machine.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from bonescreen.bench.machine import cpu_times
from xray.errors import EngineOutage

GO = "go\n"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one setting did in one round.

    Parameters
    ----------
    images : int
    seconds : float
    cpu_seconds : float
        Of its process, on all CPUs together.
    beside_seconds : float
        Those of them in threads that do not belong to the network's library; 0 where that is not told apart.
    idle : float
        Share of the whole machine's CPU time in which nothing ran.
    """

    images: int
    seconds: float
    cpu_seconds: float
    beside_seconds: float
    idle: float

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds

    @property
    def core_milliseconds(self) -> float:
        """CPU time of an image."""
        return 1000 * self.cpu_seconds / self.images


class Contender:
    """A process that takes turns.

    Parameters
    ----------
    module : str
        Its module, whose ``main`` calls `take_turns`.
    arguments : sequence of str
    environment : mapping of str to str, optional
        Added to this process's own.
    """

    def __init__(self, module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> "Contender":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The end of its input ends it.
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # type: ignore[union-attr]
        if kind is not None:
            self._process.kill()
        self._process.wait()
        self._process.stdout.close()  # type: ignore[union-attr]
        self._errors.close()

    def take_turn(self) -> dict[str, Turn]:
        """Have it work once; return what it did, by name.

        Raises
        ------
        EngineOutage
            The process has ended.
        """
        with suppress(BrokenPipeError):
            self._process.stdin.write(GO)  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
        answer = self._process.stdout.readline()  # type: ignore[union-attr]
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            last = self._errors.read().strip().splitlines()[-1:] or [f"exit status {self._process.returncode}"]
            raise EngineOutage(f"a process of the benchmark failed: {last[0]}")
        return {name: Turn(**turn) for name, turn in json.loads(answer).items()}


def take_turns(act: Callable[[], Mapping[str, Turn]]) -> None:
    """Work, in a contender's process, each time that the benchmark says so.

    Parameters
    ----------
    act : callable
        Does the work and returns what it measured, by name.
    """
    # Libraries print to standard output; what this process answers goes where that was.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for _ in iter(sys.stdin.readline, ""):
        answers.write(json.dumps({name: asdict(turn) for name, turn in act().items()}) + "\n")
        answers.flush()


def timed(images: int, act: Callable[[], object], own_threads: Callable[[], float] | None = None) -> Turn:
    """Measure one piece of work in this process.

    Parameters
    ----------
    images : int
        How many images it processes.
    act : callable
    own_threads : callable, optional
        Returns the CPU seconds, so far, of the network library's threads.
    """
    idle, total = cpu_times()
    cpu, library = time.process_time(), own_threads() if own_threads else 0.0
    started = time.perf_counter()
    act()
    seconds, spent = time.perf_counter() - started, time.process_time() - cpu
    beside = spent - (own_threads() - library) if own_threads else 0.0
    idle_now, total_now = cpu_times()
    return Turn(images, seconds, spent, beside, (idle_now - idle) / (total_now - total or 1.0))


def play_rounds(
    contenders: Mapping[str, Callable[[], Contender]], rounds: int, say: Callable[[str], None]
) -> list[dict[str, Turn]]:
    """Start processes and let them take turns; the first round, which warms them up, does not count.

    Parameters
    ----------
    contenders : mapping of str to callable
        Starts each, by name.
    rounds : int
    say : callable
        Called with what is done now.

    Returns
    -------
    list of dict
        For each round, what each did, by the names that they answer with.
    """
    played = []
    with ExitStack() as stack:
        started = {name: stack.enter_context(start()) for name, start in contenders.items()}
        for number in range(rounds + 1):
            seen: dict[str, Turn] = {}
            for name, contender in started.items():
                say(f"{'warming up' if not number else f'round {number} of {rounds}'}: {name}")
                seen |= contender.take_turn()
            if number:
                played.append(seen)
    return played


def spread(values: Iterable[float], digits: int = 3) -> dict[str, Any]:
    """Return the median of some values, their range, and the values, as the JSON has them."""
    rounded = [round(value, digits) for value in values]
    return {
        "median": round(statistics.median(rounded), digits),
        "least": min(rounded),
        "most": max(rounded),
        "values": rounded,
    }
