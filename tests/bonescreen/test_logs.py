"""The logs of workers and feeders: JSON for a collector, and no path or patient in lines of INFO."""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.archives import truncated
from tests.bonescreen.processes import run
from tests.faults.stack import write_archive
from xray.errors import UsageError
from xray.log_lines import JsonFormatter
from xray.settings import read_settings

PATIENT, UID = "DOE-JANE-19480321", "1.2.840.99999.4711"
CELERYS_OWN = ("", "worker: Warm shutdown (MainProcess)")
"""What Celery's parent process writes past its loggers when it is told to stop."""

EVERY_LINE = {"time", "level", "logger", "role", "worker", "pid", "message"}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Write an archive whose paths name patients, with a file that is damaged and one that cannot be read."""
    root = tmp_path / PATIENT
    written = write_archive(root, 6, 64)
    for number in range(written.images):
        file = root / written.path(number)
        target = root / f"{PATIENT}-{number}" / UID / f"{UID}.{number}.png"
        target.parent.mkdir(parents=True)
        file.rename(target)
        if number == 2:
            target.write_bytes(truncated(target.read_bytes()))
    return root


def read(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line not in CELERYS_OWN]


def test_every_line_of_worker_and_feeder_is_json_and_none_names_a_patient(
    archive: Path, home: Path, environ: dict[str, str]
) -> None:
    logging_as = {"BONESCREEN_LOG_FORMAT": "json", "BONESCREEN_LOG_LEVEL": "debug", "BONESCREEN_WORKER_NAME": "gpu1"}
    done = run({**environ, **logging_as, "BONESCREEN_QUIET_SECONDS": "0"}, "screen", archive)
    assert done.returncode == 0, done.stderr
    for role in ("worker", "feeder"):
        text = (home / "logs" / f"{role}.log").read_text()
        lines = read(home / "logs" / f"{role}.log")
        assert lines
        assert {name for line in lines for name in EVERY_LINE - line.keys()} == set()
        assert {(line["role"], line["worker"].rpartition("/")[2]) for line in lines} == {(role, "gpu1")}
        assert "INFO" in {line["level"] for line in lines}
        assert ("DEBUG" in {line["level"] for line in lines}) == (role == "worker")
        for named in (PATIENT, UID, str(archive)):
            assert named not in text
    ended = [line for line in read(home / "logs" / "worker.log") if "succeeded" in line["message"]]
    assert {line["run"] for line in ended if "run" in line} == {1}
    # Those that found nothing to do name no batch.
    assert any("batch" in line for line in ended)
    assert all("batch" in line or "'batch': None" in line["message"] for line in ended)
    assert all(line["task"] for line in ended)
    stored = b"".join(file.read_bytes() for file in (home / "broker").iterdir())
    assert b"bonescreen.screen_batch" in stored
    assert {named for named in (PATIENT, UID, str(archive)) if named.encode() in stored} == set()


def test_lines_are_text_by_default_and_a_level_leaves_the_lower_ones_out(
    archive: Path, home: Path, environ: dict[str, str]
) -> None:
    assert run({**environ, "BONESCREEN_LOG_LEVEL": "warning"}, "screen", archive).returncode == 0
    log = (home / "logs" / "worker.log").read_text()
    assert "INFO" not in log
    assert "succeeded" not in log
    assert not (home / "logs" / "feeder.log").read_text()
    (archive / "new.png").write_bytes(next(archive.rglob("*.png")).read_bytes())
    assert run(environ, "screen", archive).returncode == 0
    assert "feeder INFO sent" in (home / "logs" / "feeder.log").read_text()
    assert "INFO/" in (home / "logs" / "worker.log").read_text()


def test_a_line_has_the_numbers_that_its_message_names_and_the_traceback_of_an_error() -> None:
    json_lines = JsonFormatter("worker", "host/gpu1")
    record = logging.LogRecord("worker.pipeline", logging.WARNING, "", 1, "batch %d of run %d\nreleased", (12, 3), None)
    line = json_lines.format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert (said["run"], said["batch"], said["level"]) == (3, 12, "WARNING")
    assert said["time"].endswith("Z")
    try:
        raise ValueError("wrong")
    except ValueError:
        failed = logging.LogRecord("x", logging.ERROR, "", 1, "failed", None, sys.exc_info())
    said = json.loads(json_lines.format(failed))
    assert "ValueError: wrong" in said["traceback"]
    assert "run" not in said


@pytest.mark.parametrize("name", ["BONESCREEN_LOG_FORMAT", "BONESCREEN_LOG_LEVEL"])
def test_another_format_or_level_is_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name}='loud' must be one of "):
        read_settings({name: "loud"})
