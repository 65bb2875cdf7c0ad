"""Archives with a manifest that are scanned into the database, and scanned again after it changed."""

import threading
from pathlib import Path
from unicodedata import normalize

import pytest

from db import scans
from db.queries import find_study
from db.run_queries import list_runs, run_summary
from db.session import Database
from producer.dry_run import dry_run
from producer.scan import finish_abandoned_scan
from producer.source import Source
from tests.archives import png
from tests.clinics import KEY, Scan, dicom_image, put, studies
from tests.containers import write_zip
from tests.seeding import MODEL
from xray.errors import UsageError
from xray.vocabulary import Layout


def test_a_manifest_groups_images_of_several_folders_in_studies_with_its_attributes(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "a/1.png", png(1))
    put(clinic, "b/2.dcm", dicom_image())
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


def test_an_image_that_a_manifest_lists_and_that_is_missing_is_counted_and_named(
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
    ("text", "message"),
    [
        ("study,image\ns,1.png\nt,1.png\n", "lists '1.png' on lines 2 and 3"),
        ("study,image\ns,1.png\ns,./1.png\n", "lists '1.png' on lines 2 and 3"),
        (
            "study,image,label\ns,1.png,positive\ns,2.png,negative\n",
            "gives the study 's' two labels: positive on line 2, negative on line 3; a study has one label",
        ),
        ("study,image\ns,../1.png\n", "line 2: the image '../1.png' is not below"),
        ("study,image\ns,x/1.png\ns,x/2.png\n", "no image that manifest.csv lists (2) is in"),
        ("study,image\n", "lists no image"),
        ("", "line 1: there is no column 'study'"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_line_numbers_and_nothing_is_created(
    clinic: Path, database: Database, scan: Scan, text: str, message: str
) -> None:
    put(clinic, "1.png", png(1))
    put(clinic, "2.png", png(2))
    (clinic / "manifest.csv").write_text(text)
    with pytest.raises(UsageError) as caught:
        scan()
    assert message in str(caught.value)
    assert list_runs(database) == []
    if "no image that" not in message:
        with pytest.raises(UsageError) as planned:
            dry_run(database, "clinic", Source(clinic), MODEL.queue)
        assert str(planned.value) == str(caught.value)


def test_the_layout_manifest_without_a_manifest_is_refused_and_the_columns_are_named(clinic: Path, scan: Scan) -> None:
    put(clinic, "1.png", png(1))
    with pytest.raises(UsageError, match=r"needs a manifest\.csv .* study,image\[,label"):
        scan(Layout.MANIFEST)


def test_a_scan_that_is_taken_over_also_waits_until_the_manifest_is_written(
    clinic: Path, database: Database, scan: Scan
) -> None:
    for name in ("1.png", "2.png"):
        put(clinic, name, png(int(name[0])))
    manifest = clinic / "manifest.csv"
    manifest.write_text("study,image\ns,1.png\ns,2.png\n")
    run = scan().run_id
    begun = scans.begin_scan(database, run, Layout.MANIFEST, "elsewhere:1")
    assert begun is not None
    scans.release_scan(database, begun)
    manifest.write_text("study,image\ns,1.png\n")
    growing = threading.Timer(0.5, manifest.write_text, ["study,image\ns,1.png\ns,2.png\n"])
    growing.start()
    with pytest.raises(UsageError, match="still being written"):
        finish_abandoned_scan(database, begun.scan_id, Source(clinic, quiet_seconds=1.0), "me")
    growing.join()
    assert studies(database) == {"s": 2}


def test_a_manifest_that_became_wrong_changes_nothing_of_the_earlier_scan(
    clinic: Path, database: Database, scan: Scan
) -> None:
    put(clinic, "1.png", png(1))
    (clinic / "manifest.csv").write_text("study,image\ns,1.png\n")
    run = scan().run_id
    (clinic / "manifest.csv").write_text("study,image\ns,1.png\nt,1.png\n")
    with pytest.raises(UsageError):
        scan()
    assert (run_summary(database, run).images, studies(database)) == (1, {"s": 1})


NFC, NFD = (normalize(form, "H\xe4nde.png") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("listed", "on_disk"), [(NFC, NFD), (NFD, NFC), (NFD, NFD)])
def test_a_listed_name_meets_the_file_in_either_unicode_form(
    clinic: Path, database: Database, scan: Scan, listed: str, on_disk: str, packed: bool
) -> None:
    manifest = f"study,image\ns,{listed}\n".encode()
    if packed:
        put(clinic, "manifest.csv", manifest.replace(b"s,", b"s,a.zip\\"))
        write_zip(clinic / "a.zip", {on_disk: png(1)})
    else:
        put(clinic, "manifest.csv", manifest)
        put(clinic, on_disk, png(1))
    assert scan().missing == 0
    (image,) = find_study(database, "s")[0].images
    assert image.image == ("a.zip/" if packed else "") + NFC


@pytest.mark.parametrize("packed", [False, True])
def test_two_files_whose_names_differ_in_their_form_are_listed_as_two(
    clinic: Path, database: Database, scan: Scan, packed: bool
) -> None:
    folder = "a.zip/" if packed else ""
    put(clinic, "manifest.csv", f"study,image\ns,{folder}{NFC}\ns,{folder}{NFD}\n".encode())
    if packed:
        write_zip(clinic / "a.zip", {NFC: png(1), NFD: png(2)})
    else:
        put(clinic, NFC, png(1))
        put(clinic, NFD, png(2))
    assert scan().missing == 0
    assert {image.image for image in find_study(database, "s")[0].images} == {folder + NFC, folder + NFD}


def test_one_file_that_is_listed_in_both_forms_is_listed_twice(clinic: Path, scan: Scan) -> None:
    put(clinic, "manifest.csv", f"study,image\ns,{NFC}\ns,{NFD}\n".encode())
    put(clinic, NFD, png(1))
    with pytest.raises(UsageError, match="on lines 2 and 3"):
        scan()
