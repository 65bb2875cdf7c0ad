"""The worker's Celery application: prefork, one child process per device, nothing heavy before the fork."""

import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import asdict

from celery import Celery
from celery.app.amqp import AMQP
from celery.signals import worker_process_init, worker_process_shutdown, worker_ready, worker_shutting_down
from kombu.entity import Queue

from db.heartbeats import Activity
from db.session import Database
from worker.archive_outages import ArchiveOutages
from worker.consumer import StrictAMQP
from worker.lease_renewal import LeaseRenewer
from worker.parent_death import die_with_parent
from worker.parent_watch import ParentWatch, quiet_problem
from worker.pipeline import BatchWorker
from worker.watchdog import slow_work, start_watchdog
from xray.errors import EngineOutage
from xray.message import TASK_NAME, queue_name, transport_options
from xray.network.engine import Engine
from xray.network.open_engine import open_engine
from xray.network.package import ModelPackage
from xray.network.precision import machine_precisions, served_precisions
from xray.settings import Settings
from xray.vocabulary import Precision


def celery_app(broker_url: str, amqp: type[AMQP] = AMQP) -> Celery:
    """Make a Celery application as workers and Flower use it: JSON only, no results, our transport options.

    Parameters
    ----------
    broker_url : str
        Redis-protocol URL.
    amqp : type
        Makes the connections to the broker.
    """
    app = Celery("bonescreen", broker=broker_url, amqp=amqp, set_as_current=False)
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        result_serializer="json",
        task_ignore_result=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=transport_options(),
        result_backend_transport_options=transport_options(),
        visibility_timeout=transport_options()["visibility_timeout"],
    )
    return app


def make_app(settings: Settings, package: ModelPackage, broker_url: str) -> Celery:
    """Make the Celery application of a worker, which screens with one model package.

    Parameters
    ----------
    settings : Settings
        Read from the environment.
    package : ModelPackage
        The model; its weights are loaded in the child, for the first batch.
    broker_url : str
        Redis-protocol URL.

    Raises
    ------
    UsageError
        If this machine does not compute the precision in the settings.
    """
    precisions = served_precisions(package, settings.engine, settings.precision)
    queues = [queue_name(package.digest, precision) for precision in precisions]
    app = celery_app(broker_url, StrictAMQP)
    app.conf.update(
        worker_consumer="worker.consumer:StrictConsumer",
        task_queues=[Queue(queue) for queue in queues],  # type: ignore[no-untyped-call]
        task_default_queue=queues[0],
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_proc_alive_timeout=60.0,
    )
    child = _ChildProcess(settings, package, precisions)
    watch = ParentWatch(app, queues, child.quiet_since, child.checked_at)
    worker_ready.connect(watch.start, weak=False)
    worker_shutting_down.connect(watch.stop, weak=False)
    # Celery tells only its parent process to stop; a child that knew nothing would finish its task first.
    worker_shutting_down.connect(child.tell_to_stop, weak=False)
    # By default signals keep only weak references, which would be lost at the end of this function.
    worker_process_init.connect(child.start, weak=False)
    worker_process_shutdown.connect(child.stop, weak=False)

    # Celery logs a task's arguments and result at INFO, so they must be numbers only: see `TaskSummary`.
    @app.task(name=TASK_NAME)  # type: ignore[untyped-decorator]
    def screen_batches(run_id: int) -> dict[str, object]:
        # The message only says that work waits. What to do next, the ledger knows.
        return asdict(child.worker.run())

    return app


class _ChildProcess:
    """The state of a forked child process: its database connections, its lease renewal and its network."""

    worker: BatchWorker

    def __init__(self, settings: Settings, package: ModelPackage, precisions: Sequence[Precision]) -> None:
        self._settings = settings
        self._package = package
        self._precisions = precisions
        # Not an Event: a child that is killed while it asks one keeps its lock for ever.
        self._stopping = multiprocessing.RawValue("b", 0)
        self.quiet_since = multiprocessing.RawValue("d", 0.0)
        self.checked_at = multiprocessing.RawValue("d", 0.0)
        self._archive_outages = ArchiveOutages()

    def tell_to_stop(self, **_: object) -> None:
        """Tell the child, from the parent, to store what was inferred and to release its batches."""
        self._stopping.value = 1

    def start(self, **_: object) -> None:
        """Set up a new child process; the network is loaded for the first batch."""
        die_with_parent()
        database = Database(self._settings.effective_database_url)
        name = f"{self._settings.worker_signature}:{os.getpid()}"
        queues = " ".join(queue_name(self._package.digest, precision) for precision in self._precisions)
        native = " ".join(machine_precisions(self._settings.engine))
        self._lease_renewer = LeaseRenewer(
            database, name, queues, native, parent=os.getppid(), notice=self._notice_problem
        )
        self.worker = BatchWorker(
            database,
            self._settings,
            self._package,
            self._precisions,
            self._open_engine,
            self._lease_renewer,
            name,
            lambda: bool(self._stopping.value),
            self._archive_outages,
        )
        self._lease_renewer.start()
        start_watchdog(self.worker.count_hung, self._tell_parent)

    def stop(self, **_: object) -> None:
        """Shut down the child process and remove its heartbeat."""
        self._lease_renewer.stop()

    def _notice_problem(self) -> str | None:
        return slow_work() or quiet_problem(self.quiet_since.value)

    def _tell_parent(self) -> None:
        self.checked_at.value = time.monotonic()

    def _open_engine(self, precision: Precision) -> Engine:
        self._lease_renewer.activity = Activity.LOADING
        try:
            engine = open_engine(self._package, self._settings.engine, self._settings.graph_cache, precision)
        except Exception as error:
            # Whatever a network library raises here, its cause is this host and not an image.
            raise EngineOutage(f"the model cannot be loaded: {error}") from error
        self._lease_renewer.activity = Activity.SCREENING
        return engine
