"""``bonescreen`` from its first moment on: Ctrl-C while it still loads is an end like any other."""

import sys


def main() -> None:
    """Load the commands and run one."""
    try:
        from bonescreen.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
