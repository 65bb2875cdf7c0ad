"""The users of the pages: names and hashed passwords, in a file of ``BONESCREEN_HOME`` that only its owner can read."""

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import threading
import time
import unicodedata
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
from anyio import CapacityLimiter

from bonescreen.exports.private_file import open_private
from xray.errors import StorageOutage, UsageError

FILE = "users"
"""Lines of ``name:scrypt$n$r$p$salt$key``, salt and key in base64."""

SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 1024
LONGEST_NAME = 100

COST, BLOCK_SIZE, PARALLELISM = 2**15, 8, 1
"""scrypt's n, r and p (RFC 7914): 32 MiB and about a tenth of a second for each guess."""
MEMORY = 64 * 1024 * 1024

FREE_GUESSES = 5
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 5.0, 60.0
FORGET_SECONDS = 3600.0
BUCKETS = 4096


class TooManyGuesses(Exception):
    """The password of a user was guessed wrongly too often; `seconds` says for how long no other guess is looked at."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"too many wrong passwords; try again in {max(1, round(seconds))} seconds")
        self.seconds = seconds


def check_name(name: str) -> str:
    """Return a user's name.

    Raises
    ------
    UsageError
        It is empty or too long, has a colon or a character that cannot be printed, or begins or ends with a blank.
    """
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable() or ":" in name or name != name.strip():
        raise UsageError(
            f"a user's name has 1 to {LONGEST_NAME} printable characters, no colon, and no blank at its ends, "
            f"unlike {name!r}"
        )
    return name


def check_new_name(home: Path, name: str) -> None:
    """Check that a user of this name can be added.

    Raises
    ------
    UsageError
        There is one already, or the name is not acceptable.
    """
    if check_name(name) in read_users(home):
        raise _exists(name)


def _exists(name: str) -> UsageError:
    return UsageError(f"there is a user {name!r} already; for a new password, first: bonescreen users remove {name!r}")


def add_user(home: Path, name: str, password: str) -> None:
    """Add a user.

    Raises
    ------
    UsageError
        There is a user of this name, or the name or password is not acceptable.
    StorageOutage
        The file cannot be written.
    """
    check_name(name)
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise UsageError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters; choose a different one")
    with _changed(home) as users:
        if name in users:
            raise _exists(name)
        users[name] = _stored(password)


def remove_user(home: Path, name: str) -> None:
    """Remove a user; whoever is signed in by this name is not any more.

    Raises
    ------
    UsageError
        There is no such user.
    StorageOutage
        The file cannot be written.
    """
    with _changed(home) as users:
        if users.pop(name, None) is None:
            raise UsageError(f"there is no user {name!r}; see: bonescreen users list")


def read_users(home: Path) -> dict[str, str]:
    """Return the stored password of each user, by name; none if there is no file.

    Raises
    ------
    UsageError
        A line is damaged.
    StorageOutage
        The file cannot be read.
    """
    file = home / FILE
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise StorageOutage(f"{file} cannot be read; give this user the right to, or restore it") from error
    found = {}
    for number, line in enumerate(lines, 1):
        name, colon, stored = line.partition(":")
        if not colon or _PASSWORD.fullmatch(stored) is None:
            raise UsageError(
                f"{file}: line {number} is damaged; delete it, and add its user: bonescreen users add NAME"
            )
        found[name] = stored
    return found


@contextmanager
def _changed(home: Path) -> Iterator[dict[str, str]]:
    """Read the users, and write them back at the end of the block; one process at a time."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = open(os.open(home / f"{FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "w")  # noqa: SIM115
    except OSError as error:
        raise _not_written(home, error) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        users = read_users(home)
        yield users
        with open_private(home / FILE) as file:
            file.writelines(f"{name}:{stored}\n".encode() for name, stored in users.items())


def _not_written(home: Path, error: OSError) -> StorageOutage:
    return StorageOutage(f"{home} cannot be written ({error.strerror}); set BONESCREEN_HOME")


_PASSWORD = re.compile(r"scrypt\$\d{1,8}\$\d{1,3}\$\d{1,3}\$[A-Za-z0-9+/]{22}==\$[A-Za-z0-9+/]{43}=")


def _stored(password: str) -> str:
    salt = secrets.token_bytes(16)
    key = _derive(password, salt, COST, BLOCK_SIZE, PARALLELISM)
    return f"scrypt${COST}${BLOCK_SIZE}${PARALLELISM}${b64encode(salt).decode()}${b64encode(key).decode()}"


def _derive(password: str, salt: bytes, cost: int, block_size: int, parallelism: int) -> bytes:
    # Keyboards write the same letter in different forms.
    text = unicodedata.normalize("NFC", password).encode(errors="surrogateescape")
    return hashlib.scrypt(text, salt=salt, n=cost, r=block_size, p=parallelism, maxmem=MEMORY, dklen=32)


_NOBODY = f"scrypt${COST}${BLOCK_SIZE}${PARALLELISM}${b64encode(bytes(16)).decode()}${b64encode(bytes(32)).decode()}"
"""Compared with the password of a name that is nobody's, so that the time taken does not tell who is a user."""


def _matches(password: str, stored: str) -> bool:
    _, *numbers, salt, key = stored.split("$")
    derived = _derive(password, b64decode(salt), *map(int, numbers))
    return hmac.compare_digest(derived, b64decode(key))


class Users:
    """The users, as a server asks for them: read again whenever their file changes. Thread-safe.

    Parameters
    ----------
    home : Path
        ``BONESCREEN_HOME``.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._version: tuple[int, ...] | None = None
        self._read: dict[str, str] = {}
        self._guesses: dict[int, tuple[int, float]] = {}
        self._lock = threading.Lock()
        # Passwords that were right, under a key that only this process has: scrypt takes too long for each request.
        self._key = secrets.token_bytes(32)
        self._right: dict[str, tuple[str, bytes]] = {}
        # Each takes 32 MiB.
        self._checks = CapacityLimiter(2)

    def _users(self) -> dict[str, str]:
        try:
            status = os.stat(self._home / FILE)
            version = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            version = (0, 0, 0)
        if version != self._version:
            self._read, self._version = read_users(self._home), version
        return self._read

    def names(self) -> list[str]:
        """List the users' names; raise as `read_users` does."""
        return list(self._users())

    def mark(self, name: str) -> str | None:
        """Return a text that changes with a user's password, to check sessions by; None if there is no user."""
        stored = self._users().get(name)
        return None if stored is None else hashlib.sha256(stored.encode()).hexdigest()[:32]

    async def check_password(self, name: str, password: str) -> bool:
        """Tell whether a password is a user's, a few at a time, so that guesses take no thread from the pages.

        Raises
        ------
        TooManyGuesses
            After five wrong ones in a row, the next waits five seconds, and each further one twice as long, up to a
            minute.
        """
        return await anyio.to_thread.run_sync(self.check, name, password, limiter=self._checks)

    def check(self, name: str, password: str) -> bool:
        """Tell whether a password is a user's; raise as `check_password` does."""
        stored = self._users().get(name)
        # First of all: else a right guess would stand out from those that are not looked at.
        self._refuse_while_waiting(name)
        seen = hmac.digest(self._key, f"{name}:{password}".encode(errors="surrogatepass"), "sha256")
        known, right = self._right.get(name, ("", b""))
        if known == stored and hmac.compare_digest(right, seen):
            return True
        self._count_guess(name)
        if len(password) > LONGEST_PASSWORD or not _matches(password, stored or _NOBODY) or stored is None:
            return False
        self._right[name] = (stored, seen)
        with self._lock:
            self._guesses.pop(self._bucket(name), None)
        return True

    def _refuse_while_waiting(self, name: str) -> None:
        with self._lock:
            _, free_at = self._guesses.get(self._bucket(name), (0, 0.0))
        if (seconds := free_at - time.monotonic()) > 0:
            raise TooManyGuesses(seconds)

    def _count_guess(self, name: str) -> None:
        """Count a guess as wrong until it has proved right, so that guesses at the same time are counted too."""
        now, bucket = time.monotonic(), self._bucket(name)
        with self._lock:
            wrong, free_at = self._guesses.get(bucket, (0, now))
            if now < free_at:
                raise TooManyGuesses(free_at - now)
            # No more than it takes for the longest wait.
            wrong = 1 if now - free_at > FORGET_SECONDS else min(wrong + 1, 2 * FREE_GUESSES)
            wait = FIRST_WAIT_SECONDS * 2 ** (wrong - FREE_GUESSES) if wrong >= FREE_GUESSES else 0.0
            self._guesses[bucket] = (wrong, now + min(wait, LONGEST_WAIT_SECONDS))

    def _bucket(self, name: str) -> int:
        # Not by name, as anybody can invent names without end, and keyed, so that nobody can choose whom to slow down.
        return (
            int.from_bytes(hmac.digest(self._key, name.encode(errors="surrogatepass"), "sha256")[:4], "big") % BUCKETS
        )
