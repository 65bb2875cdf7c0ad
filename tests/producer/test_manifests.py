"""Archives that a manifest describes, scanned into the ledger, and again when it has changed."""

import threading
from pathlib import Path

import pytest

from db import scans
from db.queries import find_study
from db.run_queries import list_runs, run_summary
from db.session import Database
from producer.dry_run import dry_run
from producer.scan import finish_abandoned_scan
from producer.source import Source
from tests.archives import png
from tests.clinics import KEY, Scan, film, put, studies
from tests.seeding import MODEL
from xray.errors import UsageError
from xray.vocabulary import Layout


def test_a_manifest_makes_studies_across_folders_with_what_it_says_of_them(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "a/1.png", png(1))
    put(clinic, "b/2.dcm", film())
    put(clinic, "unlisted.png", png(3))
    (clinic / "manifest.csv").write_text(
        "study,image,label,body_part,view,patient\n"
        "wrist 7,a/1.png,positive,WRIST,PA,4711\nwrist 7,b/2.dcm,positive,WRIST,LL,4711\n"
    )
    report = scan(key=KEY)
    assert (report.layout, report.found) == (Layout.MANIFEST, 2)
    (study,) = find_study(database, "wrist 7")
    assert (study.row.body_part, study.row.human_label) == ("WRIST", "positive")
    assert [image.view for image in study.images] == ["PA", "LL"]
    assert study.patient is not None


def test_a_corrected_manifest_moves_an_image_to_its_study(clinic: Path, database: Database, scan: Scan) -> None:
    put(clinic, "1.png", png(1))
    put(clinic, "2.png", png(2))
    manifest = clinic / "manifest.csv"
    manifest.write_text("study,image\na,1.png\na,2.png\n")
    scan()
    manifest.write_text("study,image\na,1.png\nb,2.png\n")
    scan()
    assert studies(database) == {"a": 1, "b": 1}


def test_an_image_that_is_listed_and_not_there_is_an_image_and_is_named(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.png", png(1))
    (clinic / "manifest.csv").write_text("study,image\ns,1.png\ns,lost.png\n")
    report = scan()
    assert (report.found, report.missing) == (2, 1)
    assert report.warnings == ["lost.png (listed in manifest.csv, but missing)"]
    assert studies(database) == {"s": 2}
    put(clinic, "lost.png", png(2))
    report = scan()
    assert (report.found, report.missing) == (2, 0)
    assert studies(database) == {"s": 2}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("study,image\ns,1.png\nt,1.png\n", "lists '1.png' on lines 2 and 3"),
        ("study,image\ns,1.png\ns,./1.png\n", "lists '1.png' on lines 2 and 3"),
        ("study,image,label\ns,1.png,positive\ns,2.png,negative\n", "'s' positive on line 2 and negative on line 3"),
        ("study,image\ns,../1.png\n", "line 2: the image '../1.png' is not below"),
        ("study,image\ns,x/1.png\ns,x/2.png\n", "none of the 2 images that manifest.csv lists is in"),
        ("study,image\n", "lists no image"),
        ("", "line 1: there is no column 'study'"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_by_its_lines_and_nothing_is_made(
    clinic: Path, database: Database, scan: Scan, text: str, told: str
) -> None:
    put(clinic, "1.png", png(1))
    put(clinic, "2.png", png(2))
    (clinic / "manifest.csv").write_text(text)
    with pytest.raises(UsageError) as caught:
        scan()
    assert told in str(caught.value)
    assert list_runs(database) == []
    if "none of" not in told:
        with pytest.raises(UsageError) as planned:
            dry_run(database, "clinic", Source(clinic), MODEL.digest)
        assert str(planned.value) == str(caught.value)


def test_the_layout_manifest_without_a_manifest_is_refused_with_what_it_would_hold(clinic: Path, scan: Scan) -> None:
    put(clinic, "1.png", png(1))
    with pytest.raises(UsageError, match=r"needs a manifest\.csv .* study,image\[,label"):
        scan(Layout.MANIFEST)


def test_a_scan_that_is_taken_over_holds_its_manifest_to_the_quiet_period_too(
    clinic: Path, database: Database, scan: Scan
) -> None:
    for name in ("1.png", "2.png"):
        put(clinic, name, png(int(name[0])))
    manifest = clinic / "manifest.csv"
    manifest.write_text("study,image\ns,1.png\ns,2.png\n")
    run = scan().run_id
    held = scans.begin_scan(database, run, Layout.MANIFEST, "elsewhere:1")
    assert held is not None
    scans.release_scan(database, held)
    manifest.write_text("study,image\ns,1.png\n")
    growing = threading.Timer(0.5, manifest.write_text, ["study,image\ns,1.png\ns,2.png\n"])
    growing.start()
    with pytest.raises(UsageError, match="still being written"):
        finish_abandoned_scan(database, held.scan_id, Source(clinic, quiet_seconds=1.0), "me")
    growing.join()
    assert studies(database) == {"s": 2}


def test_a_manifest_that_has_gone_wrong_loses_nothing_of_what_was_scanned(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.png", png(1))
    (clinic / "manifest.csv").write_text("study,image\ns,1.png\n")
    run = scan().run_id
    (clinic / "manifest.csv").write_text("study,image\ns,1.png\nt,1.png\n")
    with pytest.raises(UsageError):
        scan()
    assert (run_summary(database, run).images, studies(database)) == (1, {"s": 1})
