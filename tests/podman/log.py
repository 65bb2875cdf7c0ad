"""What the program prints: steps and checks, with the time."""

import time


class Log:
    """Prints a line for each step, finding and check, with the seconds since the start.

    Attributes
    ----------
    failed : list of str
        The checks that failed so far.
    """

    def __init__(self) -> None:
        self.failed: list[str] = []
        self._started = time.monotonic()

    def step(self, title: str) -> None:
        """Begin a step."""
        print(f"\n{title}", flush=True)

    def say(self, text: str) -> None:
        """Print a finding."""
        print(f"  {time.monotonic() - self._started:6.1f} s         {text}", flush=True)

    def check(self, what: str, passed: bool, found: object) -> None:
        """Print whether a check passed, and what was found if not."""
        word = "ok" if passed else "FAILED"
        detail = "" if passed else f"; found: {found}"
        print(f"  {time.monotonic() - self._started:6.1f} s  {word:6} {what}{detail}", flush=True)
        if not passed:
            self.failed.append(what)

    def equal(self, what: str, found: object, expected: object) -> None:
        """Check that something is as expected."""
        self.check(what, found == expected, f"{found}, not {expected}")
