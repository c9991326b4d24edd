"""The local server of a study: hands out its page, takes answers from that page alone, keeps them as files.

It listens on this machine only. Any web page that somebody has open could send requests here: answers are
taken as JSON alone, which a foreign page may not send unasked, from the page's own origin, and under this
machine's own name.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from results.store.whole_files import check_writable, write_whole
from results.study.answers import MOST_BYTES, fuller, parse_sheet
from results.study.items import Study, read_study
from results.study.page import study_page
from results.study.study_folder import StudyFolder

HOST = "127.0.0.1"
PORT = 8642  # always one, as a browser keeps unfinished answers by it
_log = logging.getLogger(__name__)


class Refused(Exception):
    """A request that is not served: with which status, and why."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Desk:
    """Takes sheets in; keeps the one of each rater that counts, whole, whatever arrives at once or twice."""

    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        self._one_at_a_time = threading.Lock()

    def take(self, content: bytes) -> None:
        """Keep a sheet. ValueError where it is none, OSError where it cannot be written."""
        sheet = parse_sheet(content, self.study, "answers")
        file = self.folder / f"{sheet.rater}.json"
        with self._one_at_a_time:
            if file.exists():
                before = parse_sheet(file.read_bytes(), self.study, str(file))
                if fuller(before, sheet) is before or sheet == before:
                    return
            write_whole(file, content)


def make_server(run_dir: Path, port: int = PORT) -> ThreadingHTTPServer:
    """Return the server of a run's study, not yet serving; port 0 takes any that is free.

    OSError where the port is taken or nothing can be written, ValueError where the study is damaged.
    """
    folder = StudyFolder(run_dir)
    study = read_study(folder.key)
    page = study_page(study, served=True).encode()
    check_writable(folder.answers)
    pictures = {f"/pictures/{name}.png": folder.picture(name) for name in study.files}
    desk = Desk(study, folder.answers)

    class Handler(BaseHTTPRequestHandler):
        timeout = 30  # seconds that a client may keep silent
        server_version, sys_version = "p2p-bench", ""

        def do_GET(self) -> None:
            self._answer(self._found)

        def do_POST(self) -> None:
            self._answer(self._taken)

        def _found(self) -> tuple[str, bytes]:
            if self.path == "/":
                return "text/html; charset=utf-8", page
            if self.path in pictures:
                return "image/png", pictures[self.path].read_bytes()
            raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")

        def _taken(self) -> tuple[str, bytes]:
            if self.path != "/answers":
                raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")
            if self.headers.get("Origin") != f"http://{self.headers['Host']}":
                raise Refused(HTTPStatus.FORBIDDEN, "answers are taken from the study's own page alone")
            if self.headers.get_content_type() != "application/json":
                raise Refused(
                    HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "answers are taken as application/json alone"
                )
            length = self.headers.get("Content-Length", "")
            if not (length.isascii() and length.isdecimal()):
                raise Refused(HTTPStatus.LENGTH_REQUIRED, "the answers' length is missing")
            if int(length) > MOST_BYTES:
                raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"allowed are {MOST_BYTES:,} bytes")
            try:
                desk.take(self.rfile.read(int(length)))
            except ValueError as error:
                raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
            return "text/plain; charset=utf-8", b"saved"

        def _answer(self, work: Callable[[], tuple[str, bytes]]) -> None:
            assert isinstance(self.server, ThreadingHTTPServer)
            names = [f"{host}:{self.server.server_port}" for host in (HOST, "localhost")]
            try:
                if self.headers.get("Host") not in names:
                    raise Refused(HTTPStatus.FORBIDDEN, f"allowed is http://{names[0]}")
                kind, content = work()
                status = HTTPStatus.OK
            except Refused as refused:
                kind, content, status = "text/plain; charset=utf-8", str(refused).encode(), refused.status
            except OSError as error:
                _log.warning("%s %s: %s", self.command, self.path, error)
                told = f"{error.strerror or error}"
                kind, content = "text/plain; charset=utf-8", told.encode()
                status = HTTPStatus.INTERNAL_SERVER_ERROR
            self.send_response(status)
            for name, value in {
                "Content-Type": kind,
                "Content-Length": str(len(content)),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
                "X-Frame-Options": "DENY",
                "Cross-Origin-Resource-Policy": "same-origin",
            }.items():
                self.send_header(name, value)
            try:
                self.end_headers()
                self.wfile.write(content)
            except ConnectionError:
                pass  # whoever asked has gone

        def log_message(self, *_: object) -> None:
            """Print nothing: the terminal is for the address."""

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise OSError(f"port {port}: {error.strerror}; --port takes another") from error
