"""Metrics for Prometheus, read from the ledger and the broker at each request: numbers only, of no patient."""

from collections.abc import Iterable, Iterator
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bonescreen.broker import broker_socket, broker_url, is_ready
from bonescreen.problems import broker_fault
from db.metrics import LedgerMetrics, read_metrics
from db.session import Database
from producer.transport import Transport
from xray.errors import BrokerOutage, Outage
from xray.settings import Settings
from xray.vocabulary import Reason

PATH = "/metrics"


class LedgerCollector(Collector):
    """Reads every metric anew at each collection.

    In an outage of the database only ``bonescreen_database_up`` and ``bonescreen_broker_up`` have a value.

    Parameters
    ----------
    settings : Settings
    database : Database
        May be used by several threads.
    """

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database

    def describe(self) -> Iterable[Metric]:
        """Return no metrics, so that registering this reads nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        try:
            found = read_metrics(self._database)
        except Outage:
            found = None
        yield _gauge("bonescreen_database_up", "Whether the database answers.", int(found is not None))
        depths = self._depths(found.queues if found else [])
        yield _gauge("bonescreen_broker_up", "Whether the broker answers.", int(depths is not None))
        if depths is not None:
            yield _by("bonescreen_queue_messages", "Messages that wait in a queue.", ("queue",), depths.items())
        if found is not None:
            yield from _ledger_metrics(found)

    def _depths(self, queues: Iterable[str]) -> dict[str, int] | None:
        """Count the messages in each queue; None if the broker does not answer."""
        url = self._settings.broker_url
        if url is None:
            if not is_ready(broker_socket(self._settings)):
                return None
            url = broker_url(self._settings)
        if broker_fault(url) is not None:
            return None
        transport = Transport(url)
        try:
            return {queue: transport.depth(queue) for queue in queues}
        except BrokerOutage:
            return None
        finally:
            transport.close()


def _ledger_metrics(found: LedgerMetrics) -> Iterator[Metric]:
    states = ((str(state), number) for state, number in found.open_batches.items())
    yield _by("bonescreen_batches", "Open batches.", ("state",), states)
    yield _gauge("bonescreen_open_batch_images", "Images of open batches.", found.open_batch_images)
    text = "How long ago the scan ended, or began if it goes on, that made the oldest open batch; 0 without any."
    yield _gauge("bonescreen_oldest_open_batch_age_seconds", text, found.oldest_seconds)
    images = CounterMetricFamily(
        "bonescreen_images", "Images processed, by outcome and reason.", labels=("outcome", "reason")
    )
    images.add_metric(("predicted", ""), found.predicted)
    for reason in sorted({*map(str, Reason), *found.failed}):
        images.add_metric(("failed", reason), found.failed.get(reason, 0))
    yield images
    yield _by("bonescreen_processes", "Living workers and feeders.", ("role", "state"), found.processes.items())
    scans = (("abandoned" if abandoned else "scanning", number) for abandoned, number in found.scans.items())
    yield _by("bonescreen_open_scans", "Scans that are not finished.", ("state",), scans)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _by(name: str, text: str, labels: tuple[str, ...], values: Iterable[tuple[str | tuple[str, ...], float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values:
        family.add_metric((key,) if isinstance(key, str) else key, value)
    return family


def metrics_text(settings: Settings, database: Database) -> str:
    """Return every metric in Prometheus' text format."""
    return generate_latest(_registry(settings, database)).decode()


def metrics_application(settings: Settings, database: Database) -> WSGIApplication:
    """Return a WSGI application that answers ``GET /metrics``, and nothing else."""
    answer: WSGIApplication = make_wsgi_app(_registry(settings, database))

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [f"metrics are at {PATH}\n".encode()]
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Content-Type", "text/plain"), ("Allow", "GET, HEAD")])
            return [b""]
        return answer(environ, start_response)

    return application


def _registry(settings: Settings, database: Database) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LedgerCollector(settings, database))
    return registry
