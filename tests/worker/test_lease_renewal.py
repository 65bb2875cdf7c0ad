"""What a worker's heartbeats say that it does."""

import os
from collections.abc import Iterator

import pytest

from db.heartbeats import Activity, list_heartbeats
from db.session import Database
from tests.awaiting import await_that
from tests.seeding import claim_next, found_files, scan
from worker.lease_renewal import LeaseRenewer
from xray.message import RENEW_SECONDS


@pytest.fixture
def lease_renewer(database: Database) -> Iterator[LeaseRenewer]:
    renewer = LeaseRenewer(database, "test:1", "queue", "int8 fp32", parent=os.getppid())
    renewer.start()
    yield renewer
    renewer.stop()


def await_activity(database: Database, activity: Activity, seconds: float) -> None:
    def recorded() -> bool:
        return [beat.activity for beat in list_heartbeats(database)] == [activity]

    await_that(recorded, seconds, f"the heartbeat says {activity}", patience=1)


def test_a_new_activity_is_recorded_before_the_next_heartbeat_is_due(
    database: Database, lease_renewer: LeaseRenewer
) -> None:
    scan(database, found_files(1))
    await_activity(database, Activity.STARTING, 20)

    lease_renewer.activity = Activity.LOADING
    await_activity(database, Activity.LOADING, 0.8 * RENEW_SECONDS)
    claim = claim_next(database, "test:1")
    lease_renewer.add(claim)
    await_activity(database, Activity.SCREENING, 0.8 * RENEW_SECONDS)
    lease_renewer.remove(claim)
    await_activity(database, Activity.IDLE, 20)
