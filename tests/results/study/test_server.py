"""The local server takes sheets from its own page alone, and keeps each rater's once, whole."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

import results.study.server
from results.study.answers import MOST_BYTES
from results.study.items import Study
from results.study.server import make_server
from results.study.study_folder import StudyFolder
from tests.results.study.studies import attentive, make_run, make_study, sheet

RULE = attentive((0, 1, 2))


@contextmanager
def serving(run_dir: Path, port: int = 0) -> Iterator[int]:
    """Serve a run's study; yields the port."""
    with make_server(run_dir, port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path, Study]]:
    run_dir = tmp_path_factory.mktemp("runs") / "served"
    make_run(run_dir)
    study = make_study(run_dir)
    with serving(run_dir) as port:
        yield port, run_dir, study


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, content


def post(port: int, told: Any, **headers: str) -> tuple[int, bytes]:
    own = {"Origin": f"http://127.0.0.1:{port}", "Content_Type": "application/json", **headers}
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    return ask(port, "POST", "/answers", body, **{name: text for name, text in own.items() if text})


def kept(run_dir: Path) -> dict[str, Any]:
    return {file.name: json.loads(file.read_text()) for file in StudyFolder(run_dir).answers.iterdir()}


def test_the_page_its_pictures_and_nothing_else_are_handed_out(served: tuple[int, Path, Study]) -> None:
    port, run_dir, study = served
    status, page = ask(port, "GET", "/")
    assert status == 200
    assert b'"served":true' in page
    assert b"connect-src" in page
    assert b"connect-src" not in StudyFolder(run_dir).page.read_bytes()
    name = study.items[0].source
    assert ask(port, "GET", f"/pictures/{name}.png") == (200, StudyFolder(run_dir).picture(name).read_bytes())
    for path in ("/study.json", "/../study.json", "/pictures/../../study.json", "/answers", "/pictures/"):
        assert ask(port, "GET", path)[0] == 404
    assert ask(port, "PUT", "/answers", b"{}")[0] == 501


FOREIGN: list[tuple[dict[str, str], int]] = [
    ({"Origin": ""}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "http://127.0.0.1:1"}, 403),
    ({"Origin": "http://evil.example", "Host": "evil.example"}, 403),
    ({"Host": "127.0.0.1"}, 403),
    ({"Content_Type": "text/plain"}, 415),
    ({"Content_Type": ""}, 415),
    ({"Content_Length": "-5"}, 411),
    ({"Content_Length": str(MOST_BYTES + 1)}, 413),
]


@pytest.mark.parametrize(("headers", "status"), FOREIGN)
def test_what_is_not_from_the_page_is_refused(
    served: tuple[int, Path, Study], headers: dict[str, str], status: int
) -> None:
    port, run_dir, study = served
    before = kept(run_dir)
    assert post(port, sheet(study, 77, RULE), **headers)[0] == status
    assert kept(run_dir) == before
    assert ask(port, "GET", "/", Host="rebound.example")[0] == 403


def test_what_is_no_sheet_of_the_study_is_told_why(served: tuple[int, Path, Study]) -> None:
    port, run_dir, study = served
    before = kept(run_dir)
    assert post(port, b"{") == (400, b"answers: is no JSON")
    status, why = post(port, {**sheet(study, 5, RULE), "study": "x"})
    assert (status, why[:31]) == (400, b"answers: answers another study,")
    assert kept(run_dir) == before


def test_a_rater_s_sheet_is_kept_once_and_never_shrinks(served: tuple[int, Path, Study]) -> None:
    port, run_dir, study = served
    name = f"{9:032x}.json"
    whole = sheet(study, 9, RULE)
    for told in (sheet(study, 9, RULE, answers=2), sheet(study, 9, RULE, answers=4)):
        assert post(port, told) == (200, b"saved")
        assert kept(run_dir)[name] == told
    post(port, sheet(study, 9, RULE, answers=3))  # was on its way when the next one overtook it
    assert len(kept(run_dir)[name]["answers"]) == 4
    post(port, whole)
    file = StudyFolder(run_dir).answers / name
    written = file.stat().st_mtime_ns
    for told in (whole, sheet(study, 9, attentive((2, 1, 0))), sheet(study, 9, RULE, answers=4)):
        assert post(port, told)[0] == 200
    assert file.stat().st_mtime_ns == written
    assert kept(run_dir)[name] == whole


def test_many_at_once_lose_nothing(served: tuple[int, Path, Study]) -> None:
    port, run_dir, study = served
    told = [sheet(study, rater, RULE, answers=n) for rater in range(100, 104) for n in (1, 7, 20)]
    with ThreadPoolExecutor(8) as clients:
        assert {status for status, _ in clients.map(lambda one: post(port, one), told)} == {200}
    found = kept(run_dir)
    assert [len(found[f"{rater:032x}.json"]["answers"]) for rater in range(100, 104)] == [20] * 4
    assert all(name.endswith(".json") for name in found)


def test_a_full_disk_is_told_and_the_sheet_may_come_again(
    served: tuple[int, Path, Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, _, study = served

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(results.study.server, "write_whole", full)
        assert post(port, sheet(study, 200, RULE)) == (500, b"No space left on device")
    assert post(port, sheet(study, 200, RULE))[0] == 200


def test_a_port_that_is_taken_is_one_line(served: tuple[int, Path, Study]) -> None:
    port, run_dir, _ = served
    with pytest.raises(OSError, match=f"port {port}: .*; --port takes another"):
        make_server(run_dir, port)
