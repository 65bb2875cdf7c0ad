"""Entry point of ``bonescreen``; Ctrl-C while its modules are still being imported ends it without a traceback."""

import sys


def main() -> None:
    """Import the commands and run one."""
    try:
        from bonescreen.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
