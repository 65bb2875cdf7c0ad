"""`bonescreen screen` as people run it: in a process of its own, with a real broker, worker and network."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from db import ledger
from db.failures import list_failures
from db.heartbeats import list_heartbeats, record_heartbeat
from db.queries import ResultFilter, results
from db.run_queries import RunState, newest_runs, run_progress, run_summary
from db.session import Database
from db.tables import archives, batches
from tests.archives import flat_tree, jpeg, mura_tree, png, png_of_ten_gigapixels, truncated
from tests.awaiting import PATIENCE, await_that
from tests.bonescreen.processes import BONESCREEN, run
from tests.broker import TcpBroker
from tests.clinics import dicom_image
from tests.ledgers import embedded
from xray.errors import BonescreenError
from xray.message import queue_name


def opened(environ: dict[str, str]) -> Database:
    return Database(f"sqlite:///{environ['BONESCREEN_HOME']}/bonescreen.db")


def test_a_folder_of_good_and_bad_files_is_screened_and_every_bad_one_has_its_reason(tmp_path, environ):
    # Whole, the path holds what rich takes for the end of a style.
    root = tmp_path / "mixed [/archive] :smile:"
    root.mkdir(parents=True)
    (tmp_path / "elsewhere.png").write_bytes(png(1))
    (root / "good.png").write_bytes(png(2))
    (root / "copy.png").write_bytes(png(2))
    (root / "GOOD.JPG").write_bytes(jpeg(3))
    (root / "cut.jpg").write_bytes(truncated(jpeg(4)))
    (root / "text.png").write_text("not an image")
    (root / "empty.png").touch()
    (root / "bomb.png").write_bytes(png_of_ten_gigapixels())
    (root / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (root / "[bold]name.png").write_bytes(png(5))
    with (root / "huge.png").open("wb") as huge:
        huge.truncate(2 * 1024**3)

    done = run(environ, "screen", root)

    assert done.returncode == 0, done.stderr
    assert f"Scanned {root}: 10 images" in done.stderr
    *table, notice = done.stdout.splitlines()
    assert notice == "For research only, not for diagnosis."
    assert re.fullmatch(r"Screened 10 images in \d+ s, [\d.]+ images/s", table.pop())
    counts = " ".join(table[-5:])
    assert re.search(r"10 studies +\d+ flagged \(positive: fracture\) +\d+ negative \(scored below 0\.\d+\) ", counts)
    assert "  6 without result (6 not assessable): review yourself   6 images could not be read: " in counts
    assert counts.endswith(": bonescreen failures 1")
    assert "[bold]name.png" in done.stdout
    assert "not for diagnosis" in done.stdout
    database = opened(environ)
    rows = {row.study: row.status for row in results(database, ResultFilter())}
    reasons = {row.image: row.reason for row in list_failures(database)}
    assert reasons == {
        "cut.jpg": "truncated",
        "text.png": "not_an_image",
        "empty.png": "empty",
        "bomb.png": "too_many_pixels",
        "link.png": "outside_archive",
        "huge.png": "too_large",
    }
    assert {rows[study] for study in reasons} == {"not assessable"}
    assert {status for study, status in rows.items() if study not in reasons} == {"scored"}
    assert run_summary(database, 1).inferred == 3
    database.close()


def test_what_could_not_be_looked_at_gives_exit_code_3_and_what_is_no_image_does_not(tmp_path, environ):
    root = tmp_path / "archive"
    flat_tree(root, 2)
    (root / ".hidden").touch()
    (root / "notes.txt").write_text("text")
    (root / "cut.jpg").write_bytes(truncated(jpeg(4)))
    assert run(environ, "screen", root).returncode == 0
    (root / "broken.zip").write_bytes(b"not a zip")
    (root / "more.tar.gz").write_bytes(b"packed")

    for command in (["screen", root], ["screen", root, "--dry-run"], ["enqueue", root]):
        done = run(environ, *command)

        assert done.returncode == 3, done.stderr
        assert "broken.zip (damaged container)" in done.stdout + done.stderr
        assert "more.tar.gz (compressed tar): unpack it (tar xf), then screen the folder" in done.stdout + done.stderr
    status = run(environ, "status")
    assert status.returncode == 0
    told = " ".join(status.stdout.split())
    assert "Run 1: 1 compressed tar could not be looked at. Unpack it (tar xf), then screen the folder." in told
    assert "Run 1: 1 damaged zip or tar could not be looked at. Copy it again" in told
    for name in ("broken.zip", "more.tar.gz"):
        (root / name).unlink()
    assert run(environ, "screen", root).returncode == 0
    assert "looked at" not in run(environ, "status").stdout
    assert run(environ, "screen", root, tmp_path / "nowhere").returncode == 2


def test_the_body_parts_that_stay_out_of_scope_are_counted(tmp_path, environ):
    root = tmp_path / "archive"
    root.mkdir()
    for number, part in enumerate(["CHEST", "SKULL", "CHEST", "HAND", None]):
        (root / f"{number}.dcm").write_bytes(dicom_image(number, BodyPartExamined=part))

    done = run(environ, "enqueue", root)

    assert done.returncode == 0
    assert "out of scope: 2 images CHEST, 1 SKULL (not known to the model)" in done.stdout
    assert "BONESCREEN_BODY_PARTS" in done.stdout


def test_a_second_run_does_only_what_is_new_or_changed(tmp_path, environ):
    root = tmp_path / "archive"
    flat_tree(root, 6)
    assert run(environ, "screen", root).returncode == 0

    again = run(environ, "screen", root)

    assert again.returncode == 0
    assert "Everything is already screened: 6 studies" in again.stderr
    assert "Screened " not in again.stdout
    first = sorted(root.iterdir())[0]
    first.write_bytes(png(100))
    (root / "new.png").write_bytes(png(101))
    third = run(environ, "screen", root)
    assert third.returncode == 0
    assert "\nScreened 2 images in " in third.stdout
    database = opened(environ)
    summary = run_summary(database, 1)
    assert (summary.state, summary.images, summary.processed) == (RunState.DONE, 7, 7)
    database.close()


def test_interrupted_it_stops_what_it_started_and_run_again_does_what_is_left(tmp_path, environ):
    root = tmp_path / "archive"
    flat_tree(root, 400)
    environ["BONESCREEN_BATCH_SIZE"] = "8"
    process = subprocess.Popen(
        [*BONESCREEN, "screen", str(root)], env=environ, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    await_that(lambda: Path(environ["BONESCREEN_HOME"], "bonescreen.db").exists(), 30, "the database is made")
    database = opened(environ)
    await_that(lambda: _processed(database) > 0, 60, "some images are done")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60 * PATIENCE)

    assert process.returncode == 130
    left = run_progress(database, 1)
    assert 0 < left.processed < left.images == 400
    done = f"Stopped: {left.processed:,} of 400 images done and saved."
    assert said.endswith(f"\nStopping ...\n{done}\nContinue with: bonescreen screen {root}\n")
    assert "Traceback" not in said
    status = run(environ, "status").stdout
    assert status.startswith("Run 1: stopped, ")
    assert f"PROBLEM: Run 1 is stopped, {400 - left.processed} images left.\n" in status
    assert f"Continue with: bonescreen screen {root}\n" in status
    assert list_heartbeats(database) == []
    with database.read() as connection:
        held = connection.execute(select(batches.c.state, batches.c.attempts).distinct()).all()
    assert {row.attempts for row in held} == {0}
    assert "claimed" not in {row.state for row in held}
    again = run(environ, "screen", root)
    assert again.returncode == 0, again.stderr
    end = run_progress(database, 1)
    assert (end.state, end.processed) == (RunState.DONE, 400)
    database.close()


@pytest.mark.parametrize("command", ["screen", "enqueue"])
def test_outside_its_hours_it_reads_nothing_says_until_when_it_waits_and_can_be_stopped(tmp_path, environ, command):
    root = tmp_path / "archive"
    flat_tree(root, 2)
    begin = datetime.now() + timedelta(hours=2)
    environ["BONESCREEN_HOURS"] = f"{begin:%H:%M}-{begin + timedelta(hours=1):%H:%M}"
    process = subprocess.Popen([*BONESCREEN, command, str(root)], env=environ, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == f"Waiting until {begin:%H:%M}, as BONESCREEN_HOURS says. Stop with Ctrl-C.\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60 * PATIENCE) == 130
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    database = opened(environ)
    assert newest_runs(database) == []
    database.close()


def test_while_screen_waits_for_its_hours_status_does_not_call_its_run_stopped(tmp_path, environ):
    root = tmp_path / "archive"
    flat_tree(root, 2)
    assert run(environ, "screen", root).returncode == 0
    database = opened(environ)
    with database.write() as connection:
        connection.execute(update(batches).values(state="pending"))
    assert "is stopped" in run(environ, "status").stdout
    begin = datetime.now() + timedelta(hours=2)
    environ["BONESCREEN_HOURS"] = f"{begin:%H:%M}-{begin + timedelta(hours=1):%H:%M}"
    process = subprocess.Popen([*BONESCREEN, "screen", str(root)], env=environ, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("Waiting until")
    status = run(environ, "status")
    assert (status.returncode, "stopped" in status.stdout) == (0, False)
    process.send_signal(signal.SIGINT)
    process.wait(60 * PATIENCE)
    process.stderr.close()
    database.close()


def _processed(database: Database) -> int:
    try:
        return sum(run_progress(database, number).processed for number in newest_runs(database))
    except BonescreenError:
        return 0


def test_folders_of_the_same_name_are_archives_of_their_own(tmp_path, environ):
    for place in ("one", "two"):
        flat_tree(tmp_path / place / "images", 2)

    done = run(environ, "screen", tmp_path / "one" / "images", tmp_path / "two" / "images")

    assert done.returncode == 0, done.stderr
    database = opened(environ)
    assert [run_summary(database, number).archive for number in (1, 2)] == ["images", "images-2"]
    assert [run_summary(database, number).processed for number in (1, 2)] == [2, 2]
    database.close()


def test_a_mura_archive_of_thousands_of_images_gets_studies_body_parts_and_human_labels_right(tmp_path, environ):
    studies = mura_tree(tmp_path / "MURA-v1.1", 3000)

    done = run(environ, "enqueue", tmp_path / "MURA-v1.1")

    assert done.returncode == 0, done.stderr
    database = opened(environ)
    rows = list(results(database, ResultFilter()))
    assert len(rows) == studies
    assert sum(row.images for row in rows) == 3000
    assert set(Counter(row.body_part for row in rows)) == {"HUMERUS", "HAND"}
    for row in rows:
        assert row.study.endswith(f"_{row.human_label}")
        assert f"XR_{row.body_part}/" in row.study
    database.close()


@pytest.mark.parametrize("bad", ["missing", "file", "empty", "only clutter"])
def test_a_path_that_holds_nothing_to_screen_is_refused_in_one_line_and_leaves_no_trace(tmp_path, environ, bad):
    path = tmp_path / "archive"
    if bad == "file":
        path.write_text("x")
    elif bad != "missing":
        path.mkdir()
    if bad == "only clutter":
        (path / ".DS_Store").touch()
        (path / "notes.txt").touch()

    done = run(environ, "screen", path)

    assert done.returncode == 2
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == done.stderr.splitlines()[-1:]
    assert str(path) in done.stderr
    assert run(environ, "runs", "--json").stdout.strip() == "[]"


def test_if_one_folder_has_no_images_the_others_still_are_screened(tmp_path, environ):
    for name in ("first", "last"):
        flat_tree(tmp_path / name, 2)
    (tmp_path / "empty").mkdir()

    done = run(environ, "screen", *(tmp_path / name for name in ("first", "empty", "last")))

    why = f"no image found in {tmp_path / 'empty'}; nothing was changed"
    assert done.returncode == 2
    assert f"\nnot screened: {why}\n" in done.stderr
    assert done.stderr.endswith(f"\nerror: {why}\n")
    database = opened(environ)
    summaries = [run_summary(database, number) for number in (1, 2)]
    assert [(summary.archive, summary.processed) for summary in summaries] == [("first", 2), ("last", 2)]
    database.close()


def test_every_archive_that_cannot_be_enqueued_is_named_at_the_end(tmp_path, environ):
    flat_tree(tmp_path / "good", 2)
    for name in ("empty", "clutter"):
        (tmp_path / name).mkdir()

    done = run(environ, "enqueue", *(tmp_path / name for name in ("empty", "clutter", "good")))

    assert done.returncode == 2
    assert f"Scanned {tmp_path / 'good'}: 2 images " in done.stdout
    errors = [line.split(";")[0] for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [f"error: no image found in {tmp_path / name}" for name in ("empty", "clutter")]


@pytest.mark.parametrize("command", ["screen", "enqueue"])
def test_a_damaged_database_is_left_as_it_is_and_said_to_be_damaged(tmp_path, environ, command):
    flat_tree(tmp_path / "archive", 1)
    file = Path(environ["BONESCREEN_HOME"], "bonescreen.db")
    file.parent.mkdir()
    file.write_bytes(os.urandom(20_000))
    before = file.read_bytes()

    done = run(environ, command, tmp_path / "archive")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: the database sqlite:///{file} is damaged: file is not a database; ")
    assert len(done.stderr.splitlines()) == 1
    assert file.read_bytes() == before


@pytest.mark.parametrize("damage", ["missing", "no card", "other weights", "not a package"])
def test_a_model_that_cannot_be_trusted_is_refused_before_anything_is_scanned(tmp_path, environ, tiny_package, damage):
    flat_tree(tmp_path / "archive", 2)
    model = tmp_path / "model"
    if damage != "missing":
        shutil.copytree(tiny_package.path, model)
    if damage == "no card":
        (model / "card.json").unlink()
    elif damage == "other weights":
        with (model / "weights.h5").open("r+b") as weights:
            weights.seek(5000)
            weights.write(b"damage")
    elif damage == "not a package":
        (model / "card.json").write_text("[]")

    done = run({**environ, "BONESCREEN_MODEL": str(model)}, "screen", tmp_path / "archive")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not Path(environ["BONESCREEN_HOME"], "bonescreen.db").exists()


def test_two_at_once_in_one_home_are_not_allowed(tmp_path, environ):
    flat_tree(tmp_path / "archive", 3)
    # A broker that is not there: the first waits for it, and so is at work for as long as the second looks.
    environ["BONESCREEN_BROKER_URL"] = "redis://127.0.0.1:1/0"
    first = subprocess.Popen(
        [*BONESCREEN, "screen", str(tmp_path / "archive")],
        env=environ,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    await_that(lambda: Path(environ["BONESCREEN_HOME"], "bonescreen.db").exists(), 30, "the first is at work")

    second = run(environ, "screen", tmp_path / "archive")

    assert second.returncode == 2
    assert "another `bonescreen screen` is running" in second.stderr
    first.send_signal(signal.SIGINT)
    assert first.wait(60 * PATIENCE) == 130


def test_it_starts_its_own_worker_when_others_seem_to_be_running(tmp_path, environ, tiny_package, broker: TcpBroker):
    flat_tree(tmp_path / "archive", 3)
    database = embedded(Path(environ["BONESCREEN_HOME"]))
    # What a killed worker leaves behind: it counts as alive for a while.
    record_heartbeat(database, "elsewhere:1", "worker", queue_name(tiny_package.digest, "fp32"), None)

    done = run({**environ, "BONESCREEN_BROKER_URL": broker.url}, "screen", tmp_path / "archive")

    assert done.returncode == 0, done.stderr
    assert run_progress(database, 1).state is RunState.DONE
    database.close()


def test_folders_with_commas_blanks_and_line_breaks_in_their_names_are_screened(tmp_path, environ):
    folders = [tmp_path / name for name in ("a,b", "blank ", "two\nlines")]
    for folder in folders:
        flat_tree(folder, 1)

    done = run(environ, "screen", *folders)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("image000000.png") == 3


def test_a_path_that_no_database_could_hold_is_refused_before_anything_is_scanned(tmp_path, environ):
    flat_tree(tmp_path / os.fsdecode(b"b\xfcro"), 1)

    done = run(environ, "screen", tmp_path / os.fsdecode(b"b\xfcro"))

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the archive's path is not UTF-8")
    assert len(done.stderr.splitlines()) == 1
    assert run(environ, "runs", "--json").stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["a,b", "blank ", "two\nlines"])
def test_a_path_that_no_worker_could_be_given_is_refused_before_anything_is_scanned(tmp_path, environ, name):
    flat_tree(tmp_path / name, 1)
    environ["BONESCREEN_DATABASE_URL"] = f"sqlite:///{tmp_path / 'own.db'}"
    assert run(environ, "db", "upgrade").returncode == 0

    done = run(environ, "screen", tmp_path / name)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the archive's path cannot be written in BONESCREEN_ARCHIVES")
    assert len(done.stderr.splitlines()) == 1
    assert run(environ, "runs", "--json").stdout.strip() == "[]"


def test_a_home_may_know_more_archives_than_an_environment_holds(tmp_path, environ):
    flat_tree(tmp_path / "archive", 1)
    database = embedded(Path(environ["BONESCREEN_HOME"]))
    with database.write() as connection:
        rows = [{"name": f"earlier-{n}", "root": f"/clinics/{n:0100}"} for n in range(2000)]
        connection.execute(insert(archives), rows)
    database.close()

    done = run(environ, "screen", tmp_path / "archive")

    assert done.returncode == 0, done.stderr


def test_modules_in_the_current_folder_are_not_taken_for_ours(tmp_path, environ):
    flat_tree(tmp_path / "archive", 1)
    for name in ("bonescreen", "db", "worker", "producer", "xray", "redis", "numpy", "celeryconfig", "openvino"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')")
    command = [sys.executable, "-P", *BONESCREEN[1:], "screen", "archive"]

    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=120 * PATIENCE)

    assert done.returncode == 0, done.stderr


def test_work_left_over_from_before_is_not_said_to_have_been_screened_already(tmp_path, environ):
    flat_tree(tmp_path / "archive", 2)
    assert run(environ, "enqueue", tmp_path / "archive").returncode == 0

    done = run(environ, "screen", tmp_path / "archive")

    assert done.returncode == 0, done.stderr
    assert "already screened" not in done.stderr


def test_a_run_cancelled_from_elsewhere_is_said_to_be_and_is_no_success(tmp_path, environ):
    flat_tree(tmp_path / "archive", 400)
    environ["BONESCREEN_BATCH_SIZE"] = "4"
    screening = subprocess.Popen(
        [*BONESCREEN, "screen", str(tmp_path / "archive")],
        env=environ,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    await_that(lambda: Path(environ["BONESCREEN_HOME"], "bonescreen.db").exists(), 30, "the database is made")
    database = opened(environ)
    await_that(lambda: _processed(database) > 0, 60, "some images are done")
    ledger.cancel(database, 1)
    database.close()

    _, said = screening.communicate(timeout=60 * PATIENCE)

    assert screening.returncode == 1
    assert "Run 1 was cancelled" in said
    assert "bonescreen resume 1" in said


@pytest.mark.parametrize("command", ["screen", "worker"])
def test_an_engine_that_is_not_installed_is_refused_before_anything_starts(tmp_path, environ, command):
    flat_tree(tmp_path / "archive", 1)
    environ |= {
        "BONESCREEN_ENGINE": "keras",
        "KERAS_BACKEND": "numpy",
        "BONESCREEN_BROKER_URL": "redis://127.0.0.1:1/0",
    }

    done = run(environ, command, *([tmp_path / "archive"] if command == "screen" else []))

    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "the keras engine needs" in done.stderr
    assert not Path(environ["BONESCREEN_HOME"]).exists()
