"""``python -m worker``: one Celery worker for the configured model. `bonescreen worker` supervises it."""

import os
import sys

from worker.app import make_app
from xray.errors import BonescreenError, UsageError
from xray.network.package import load_package
from xray.settings import read_settings


def main() -> int:
    """Run the worker until it is shut down."""
    try:
        settings = read_settings(os.environ)
        if settings.broker_url is None:
            raise UsageError("a worker needs BONESCREEN_BROKER_URL; `bonescreen screen` starts a broker of its own")
        package = load_package(settings.model)
    except BonescreenError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    app = make_app(settings, package, settings.broker_url)
    name = f"--hostname=worker@{settings.worker_name}"
    app.worker_main(
        ["worker", name, "--pool=prefork", "--concurrency=1", "--without-gossip", "--without-mingle", "--loglevel=INFO"]
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
