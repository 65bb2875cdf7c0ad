"""Load Keras' backend without what its C++ side writes to standard error, which nobody who trains can act on."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


def load_backend() -> None:
    """Import Keras and its backend, and have the backend look for GPUs.

    To be called before anything imports Keras; what is written meanwhile is shown only if it fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _held_back():
        from xray.engine_keras import prepare_backend

        prepare_backend()
    # It warns of each model that is compiled, as if they were one.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


@contextmanager
def _held_back() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        except BaseException:
            written.seek(0)
            os.write(kept, written.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
