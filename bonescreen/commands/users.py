"""The users of the web pages: add, remove and list them."""

import sys
from getpass import getpass
from typing import Annotated

import typer

from bonescreen.command_group import CommandGroup, PlainCommand
from bonescreen.commands.arguments import as_utf8
from bonescreen.context import settings_here
from bonescreen.pages.users import add_user, check_new_name, read_users, remove_user
from bonescreen.terminal import print_line
from xray.errors import UsageError

app = typer.Typer(cls=CommandGroup, help="Add, remove and list the users of the web pages.")
Name = Annotated[
    str, typer.Argument(metavar="NAME", callback=as_utf8, help="The user's name, by which reviews are signed.")
]


@app.command(cls=PlainCommand)
def add(name: Name) -> None:
    """Add a user of the pages that `bonescreen serve` shows.

    The password is asked for twice; not on a terminal, it is one line of standard input. It is stored hashed, in
    BONESCREEN_HOME, and works at once.

    Example: bonescreen users add ada
    """
    home = settings_here().home
    check_new_name(home, name)
    add_user(home, name, _password())
    print_line(f"Added {name}.")


@app.command(cls=PlainCommand)
def remove(name: Name) -> None:
    """Remove a user; whoever is signed in by this name is signed out at once.

    Reviews keep the name.

    Example: bonescreen users remove ada
    """
    remove_user(settings_here().home, name)
    print_line(f"Removed {name}.")


@app.command("list", cls=PlainCommand)
def list_users() -> None:
    """List the users of the pages.

    Example: bonescreen users list
    """
    names = read_users(settings_here().home)
    for name in names:
        print_line(name)
    if not names:
        print_line("No users. Add one: bonescreen users add NAME")


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass("Password: ")
    if getpass("Again: ") != password:
        raise UsageError("the two passwords differ; try again")
    return password
