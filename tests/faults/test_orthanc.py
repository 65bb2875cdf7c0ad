"""The Orthanc and the proxy that other tests rely on do what these tests expect of them."""

import http.client
import io
import subprocess
from pathlib import Path

import pytest
from pydicom import dcmread

from tests.archives import image_pixels, png
from tests.debian_packages import require_packages
from tests.dicoms import phantom
from tests.faulty_proxy import FaultyProxy, Kind, content_type, cut, kind_of, oversized, silence, status
from tests.orthanc import PASSWORD, Answer, Orthanc, ask, authorization
from tests.radiographs import instance_uid, radiograph, series_uid, study_uid

AS_STORED = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}


def image(study: int) -> bytes:
    return radiograph(image_pixels(study), study)


def instance_of(study: int) -> str:
    return f"/studies/{study_uid(study)}/series/{series_uid(study)}/instances/{instance_uid(study)}"


def through(proxy: FaultyProxy, path: str) -> Answer:
    accepted = AS_STORED if kind_of("GET", path) is Kind.WADO else {}
    return ask(proxy.port, "GET", f"/dicom-web{path}", b"", {**authorization(PASSWORD), **accepted})


def found(answer: Answer) -> set[str]:
    return {study["0020000D"]["Value"][0] for study in answer.json}


def test_what_is_uploaded_is_found_and_retrieved_through_the_proxy_and_outlives_a_kill(
    orthanc: Orthanc, faulty_proxy: FaultyProxy, tmp_path: Path
) -> None:
    (tmp_path / "1.dcm").write_bytes(image(1))
    orthanc.upload([tmp_path / "1.dcm", image(2), image(2)])
    assert orthanc.instances() == 2
    assert found(through(faulty_proxy, "/studies")) == orthanc.studies() == {study_uid(1), study_uid(2)}
    assert image(1) in through(faulty_proxy, instance_of(1)).body

    orthanc.kill()
    with pytest.raises((http.client.HTTPException, OSError)):
        through(faulty_proxy, "/studies")
    orthanc.start()
    assert found(through(faulty_proxy, "/studies")) == {study_uid(1), study_uid(2)}
    orthanc.delete_study(study_uid(1))
    orthanc.restart()
    assert found(through(faulty_proxy, "/studies")) == {study_uid(2)}
    counts = {kind: faulty_proxy.count(kind) for kind in Kind}
    assert counts == {Kind.QIDO: 4, Kind.WADO: 1, Kind.METADATA: 0, Kind.STOW: 0}
    assert faulty_proxy.count(Kind.WADO, study_uid(2)) == 0


def test_orthanc_wants_its_password_unless_it_has_none(orthanc: Orthanc, tmp_path: Path) -> None:
    for headers in ({}, authorization("wrong")):
        assert ask(orthanc.port, "GET", "/dicom-web/studies", b"", headers).status == 401
    everybody = Orthanc(tmp_path / "everybody", password=None)
    everybody.start()
    try:
        everybody.upload([image(1)])
        assert ask(everybody.port, "GET", "/dicom-web/studies").status == 200
    finally:
        everybody.kill()


def test_the_proxy_answers_one_instance_with_an_error_as_often_as_told(
    orthanc: Orthanc, faulty_proxy: FaultyProxy
) -> None:
    orthanc.upload([image(1), image(2)])
    codes = [401, 403, 404, 429, 500, 503]
    for code in codes:
        faulty_proxy.inject(status(code, retry_after=7), Kind.WADO, uid=instance_uid(1), times=2)
        assert through(faulty_proxy, instance_of(2)).status == 200
        assert through(faulty_proxy, f"{instance_of(1)}/metadata").status == 200
        refused = [through(faulty_proxy, instance_of(1)) for _ in range(2)]
        assert [(one.status, one.headers["Retry-After"]) for one in refused] == [(code, "7")] * 2
        assert through(faulty_proxy, instance_of(1)).status == 200
    assert faulty_proxy.met == 2 * len(codes)


def test_the_proxy_cuts_an_answer_within_a_part(orthanc: Orthanc, faulty_proxy: FaultyProxy) -> None:
    orthanc.upload([image(1)])
    faulty_proxy.inject(cut())
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        through(faulty_proxy, instance_of(1))


def test_the_proxy_sends_a_wrong_type_and_a_body_without_end(orthanc: Orthanc, faulty_proxy: FaultyProxy) -> None:
    orthanc.upload([image(1)])
    faulty_proxy.inject(content_type("text/html"), times=1)
    wrong = through(faulty_proxy, instance_of(1))
    assert wrong.headers.get_content_type() == "text/html"
    assert image(1) in wrong.body
    faulty_proxy.inject(oversized(5_000_000))
    large = through(faulty_proxy, instance_of(1))
    assert len(large.body) > 5_000_000
    assert "Content-Length" not in large.headers


def test_the_proxy_keeps_silent_until_it_is_healed(faulty_proxy: FaultyProxy) -> None:
    faulty_proxy.inject(silence())
    connection = http.client.HTTPConnection("127.0.0.1", faulty_proxy.port, timeout=0.3)
    connection.request("GET", "/dicom-web/studies")
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    faulty_proxy.heal()
    assert through(faulty_proxy, "/studies").status == 200


def test_pictures_become_complete_dx_images_of_many_studies(orthanc: Orthanc, tmp_path: Path) -> None:
    require_packages("dicom3tools")
    picture = png(7)
    wrapped = [radiograph(picture, 1), radiograph(image_pixels(2), 1, 2, body_part="HIP"), radiograph(phantom(), 2)]
    for data in wrapped:
        (tmp_path / "image.dcm").write_bytes(data)
        checked = subprocess.run(["dciodvfy", tmp_path / "image.dcm"], capture_output=True, text=True, check=True)
        assert checked.stderr.split() == ["DXImageForPresentation"]
    assert (dcmread(io.BytesIO(wrapped[0])).pixel_array == image_pixels(7)).all()
    orthanc.upload(wrapped)
    assert orthanc.instances() == 3
    page, _, study = orthanc.study_page(study_uid(1)).partition("#study?uuid=")
    assert orthanc.ask("GET", page.removeprefix(orthanc.url)).status == 200
    assert orthanc.ask("GET", f"/studies/{study}").json["MainDicomTags"]["StudyInstanceUID"] == study_uid(1)
    assert orthanc.studies() == {study_uid(1), study_uid(2)}
