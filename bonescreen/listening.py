"""Where a server of ours listens: who can reach an address, and a socket that is bound to it."""

import ipaddress
import os
import socket

from xray.errors import Outage, UsageError


def is_loopback(host: str) -> bool:
    """Tell whether only this host can reach an address.

    Parameters
    ----------
    host : str
        The address or name to listen on.

    Raises
    ------
    UsageError
        It is not an address or name of this host.
    """
    unknown = UsageError(f"--host {host!r} is not an address or name of this host; 127.0.0.1 is reached from here only")
    if not host:
        raise unknown
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise unknown from error
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises
    ------
    Outage
        The port is in use or not allowed, or the address is not this host's.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family, backlog=128)
    except OSError as error:
        # `create_server` writes the address into the error's text.
        why = os.strerror(error.errno) if error.errno else error
        raise Outage(f"cannot listen on {host} port {port} ({why}); choose a different one with --port") from error


def url(host: str, port: int) -> str:
    """Return the URL of what listens on an address."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
