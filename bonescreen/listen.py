"""Where pages may be served: on loopback to this host alone, elsewhere to those who know the credentials."""

import ipaddress
import socket

from xray.errors import UsageError


def is_loopback(host: str) -> bool:
    """Tell whether only this host reaches what is bound to an address or name.

    Raises
    ------
    UsageError
        It is no address of this host and no name of one.
    """
    unknown = UsageError(f"--host {host!r} is no address or name known here; 127.0.0.1 is this host alone")
    if not host:
        raise unknown
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise unknown from error
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def require_credentials(host: str, user: str | None, password: str | None, settings: str) -> tuple[str, str] | None:
    """Return the credentials to ask for, None for none, which is well on loopback only.

    Parameters
    ----------
    host : str
        Where the pages are to be bound.
    user, password : str or None
        What is set.
    settings : str
        The names of the two settings, for the error.

    Raises
    ------
    UsageError
        There is no such address, half of the credentials is missing, or all of them where others reach it.
    """
    loopback = is_loopback(host)
    if user is not None and password is not None:
        return user, password
    if user is not None or password is not None:
        raise UsageError(f"only one of {settings} is set; set both, or neither and stay on 127.0.0.1")
    if not loopback:
        raise UsageError(f"others can reach {host}: set {settings}, or stay on 127.0.0.1")
    return None
