"""Choose the model version of an archive's run: the configured package, in a precision that its workers compute."""

from collections.abc import Sequence
from dataclasses import dataclass

from bonescreen.terminal import print_notice
from db.heartbeats import list_heartbeats
from db.runs import ModelVersion, archive_precision
from db.session import Database
from producer.scan import model_version
from xray.message import queue_name
from xray.network.package import ModelPackage
from xray.network.precision import choose_precision, common_precisions, machine_precisions, served_precisions
from xray.settings import Settings
from xray.vocabulary import Precision


def model_for_archive(
    settings: Settings, database: Database, package: ModelPackage, archive: str, *, works_here: bool
) -> ModelVersion:
    """Choose the model version to screen an archive with: the package, and the precision of the run.

    The archive's earlier run keeps its precision while a worker takes it. Otherwise it is the fastest that every living
    worker computes fast; float32 if there is none yet, as each computes it.

    Parameters
    ----------
    settings : Settings
        Has the precision that is wanted.
    database : Database
    package : ModelPackage
        The model.
    archive : str
        The archive's name.
    works_here : bool
        Whether this machine will screen too.

    Raises
    ------
    UsageError
        The package does not allow the precision in the settings.
    """
    wanted = settings.precision
    here = served_precisions(package, settings.engine, wanted) if works_here else ()
    fast_here = [precision for precision in machine_precisions(settings.engine) if precision in here]
    others = _living_workers(database, package) if settings.database_url is not None else []
    served = {*here, *(precision for worker in others for precision in worker.served)}
    earlier = archive_precision(database, archive, package.digest)
    if wanted == "auto" and earlier in package.card.allowed_precisions and (earlier in served or not served):
        return model_version(package, earlier)
    if wanted == "auto" and earlier is not None:
        print_notice(f"{archive} was screened in {earlier}, which no worker computes now; all of it is screened again")
    fast = [worker.fast for worker in others] + ([fast_here] if works_here else [])
    precision = choose_precision(package, wanted, common_precisions(fast))
    if not served:
        print_notice(f"no worker is alive yet, so the run is {precision}; to choose the fastest, start workers first")
    elif precision not in served:
        print_notice(f"no worker that is alive computes {precision}: the run waits until one does")
    return model_version(package, precision)


@dataclass(frozen=True)
class _LivingWorker:
    """The precisions in which a worker takes batches of a model package, and those that it computes fast."""

    served: Sequence[Precision]
    fast: Sequence[Precision]


def _living_workers(database: Database, package: ModelPackage) -> list[_LivingWorker]:
    found = []
    for beat in list_heartbeats(database):
        queues = (beat.queue or "").split() if beat.alive else []
        served = [each for each in package.card.allowed_precisions if queue_name(package.digest, each) in queues]
        if served:
            fast = [Precision(each) for each in (beat.precisions or "").split() if each in served]
            found.append(_LivingWorker(served, fast or served))
    return found
