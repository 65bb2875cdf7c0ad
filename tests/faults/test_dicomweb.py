"""Whole screens of a DICOMweb service: the numbers of the same files in a folder, and every outage waited for."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.awaiting import await_that
from tests.bonescreen.processes import run
from tests.dicomweb import instance, write_access
from tests.faults.conftest import MakeStack
from tests.faults.stack import Archive, Stack
from tests.faulty_proxy import FaultyProxy, Kind, status
from tests.orthanc import Orthanc

END = 150.0
IMAGES = 240


@pytest.fixture
def stack_of(
    orthanc: Orthanc, faulty_proxy: FaultyProxy, home_stack: MakeStack, tmp_path: Path
) -> Callable[[list[bytes]], Stack]:
    """Return the stack that screens these instances in Orthanc, through the proxy, as the archive ``pacs``."""

    def make(instances: list[bytes]) -> Stack:
        orthanc.upload(instances)
        stack = home_stack(Archive(tmp_path, len(instances)))
        stack.environ["BONESCREEN_ARCHIVES"] = f"pacs=dicomweb+{faulty_proxy.dicomweb}"
        stack.environ["BONESCREEN_DICOMWEB"] = str(write_access(tmp_path, faulty_proxy.dicomweb))
        stack.environ["BONESCREEN_LOG_LEVEL"] = "debug"
        return stack

    return make


def results(stack: Stack) -> list[dict[str, Any]]:
    done = run(stack.environ, "results", "--format", "json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return sorted(({**one, "changed_at": None} for one in found), key=lambda one: one["study"])


def test_a_service_is_screened_to_the_scores_of_the_same_files_in_a_folder(
    stack_of: Callable[[list[bytes]], Stack], faulty_proxy: FaultyProxy, tmp_path: Path
) -> None:
    files = [
        *(instance(1, number) for number in range(3)),
        *(instance(2, number, BodyPartExamined="HAND", ImageLaterality="L") for number in range(2)),
        instance(3, PresentationIntentType="FOR PROCESSING"),
        instance(4, Modality="CR", PixelRepresentation=0),
    ]
    stack = stack_of(files)
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, file in enumerate(files):
        (folder / str(number)).write_bytes(file)
    code, text = stack.run("screen", "pacs")
    assert code == 0, text
    of_service = results(stack)
    # In a home of its own, else the service's contents would be known.
    stack.environ["BONESCREEN_HOME"] = str(tmp_path / "other-home")
    code, text = stack.run("screen", str(folder))
    assert code == 0, text
    assert [one["score"] for one in of_service if one["score"] is not None]
    assert of_service == results(stack)
    assert faulty_proxy.count(Kind.WADO) == len(files)


def test_outages_in_the_middle_are_said_and_waited_for_and_nothing_fails(
    stack_of: Callable[[list[bytes]], Stack], orthanc: Orthanc, faulty_proxy: FaultyProxy, tmp_path: Path
) -> None:
    stack = stack_of([instance(study, number) for study in range(70, 70 + IMAGES // 4) for number in range(4)])
    command = stack.start("screen", "pacs")
    child, _ = stack.suspended_at_work()
    orthanc.kill()
    child.resume()
    await_that(lambda: "broke the connection" in stack.run("status")[1], 60, "status says that the service is away")
    # It comes back, but with another password.
    write_access(tmp_path, faulty_proxy.dicomweb, "wrong")
    orthanc.start()
    await_that(lambda: "does not accept these credentials" in stack.run("status")[1], 60, "status says why")
    assert stack.ledger.failed() == []
    faulty_proxy.inject(status(503, retry_after=1), times=5)
    write_access(tmp_path, faulty_proxy.dicomweb)
    assert command.ended(END) == 0, command.text
    stack.assert_run_finishes(1)
    kept = [file for file in (stack.home / "logs").iterdir() if file.is_file()]
    kept += [file for file in (stack.home / "broker").rglob("*") if file.is_file() and not file.is_socket()]
    assert len(kept) >= 4
    for file in kept:
        text = file.read_bytes()
        for named in (b"1.2.70", b"1.2.99", b"not-a-secret", b"P70"):
            assert named not in text, file


def test_an_instance_that_the_service_never_sends_fails_alone_and_one_that_left_is_missing(
    stack_of: Callable[[list[bytes]], Stack], orthanc: Orthanc, faulty_proxy: FaultyProxy
) -> None:
    stack = stack_of([instance(study, number) for study in range(70, 76) for number in range(4)])
    faulty_proxy.inject(status(500), Kind.WADO, uid="1.2.71.1.2")
    faulty_proxy.inject(status(404), Kind.WADO, uid="1.2.72.1.1")
    code, text = stack.run("screen", "pacs")
    assert code == 0, text
    assert sorted(reason for _, reason in stack.ledger.failed()) == ["unreadable", "vanished"]
    assert "HTTP 500" in stack.run("failures", "--json")[1]
    faulty_proxy.heal()
    assert stack.run("screen", "pacs")[0] == 0
    stack.ledger.assert_one_outcome_each(24)


def test_pictures_of_a_services_images_are_drawn_and_its_outage_is_said(
    stack_of: Callable[[list[bytes]], Stack], orthanc: Orthanc, tmp_path: Path
) -> None:
    stack = stack_of([instance(1), instance(1, 2)])
    assert stack.run("screen", "pacs")[0] == 0
    assert stack.run("heatmap", "1.2.1", "-o", str(tmp_path / "maps"))[0] == 0
    assert len(os.listdir(tmp_path / "maps")) >= 1
    orthanc.kill()
    code, text = stack.run("heatmap", "1.2.1", "-o", str(tmp_path / "more"))
    assert code == 1, text
    assert "broke the connection" in text
    code, text = stack.run("screen", "pacs", "--dry-run")
    assert (code, "Traceback" in text) == (1, False)
