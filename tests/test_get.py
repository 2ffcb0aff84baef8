"""data/get.py against a server on this machine: what it does with connections, and what it makes of texts."""

import hashlib
import io
import re
import runpy
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("pooch")  # without it, importing get ends the program
sys.path.append(str(Path(__file__).resolve().parent.parent / "data"))
import get

PLAY = "".join(f"Line {i}, é\n" for i in range(30_000)).encode()


class Handler(BaseHTTPRequestHandler):
    """Serves server.body at /text, in ranges if server.ranged; /moved leads there."""

    def do_GET(self):
        self.server.asked.append(asked := self.headers["Range"])
        start = int(asked[len("bytes=") : -1]) if asked and self.server.ranged else 0
        body = self.server.body[start:] if self.path == "/text" else b""
        found = 200 if not start else 206 if body else 416
        self.send_response({"/text": found, "/moved": 302}.get(self.path, 404))
        self.send_header("Location", "/text")
        self.send_header("Content-Length", len(body))
        self.end_headers()
        self.wfile.write(body[: self.server.break_after])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.ranged = [], True
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.shutdown()


@pytest.fixture
def run(server, monkeypatch, tmp_path):
    """Run get.py with `body` on the server and `urls` in the table: (files by name, message)."""

    def run(name, body, *urls, number="", sha256="", break_after=None):
        server.body, server.break_after = body, break_after
        sha256 = None if number else sha256 or hashlib.sha256(body).hexdigest()
        urls = [f"http://127.0.0.1:{server.server_port}/{url}" for url in urls or ["text"]]
        monkeypatch.setitem(get.SOURCES, name, (get.SOURCES[name][0], sha256, *urls))
        message = call([name, *number.split(), "--out", str(tmp_path / "x.txt")])
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}, message

    return run


def call(arguments):
    """What get.py exits with: None, a message (status 1) or a status."""
    try:
        return get.main(arguments)
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize("urls", ["text", "moved", "missing text"])
def test_a_download_equals_its_source_and_shows_the_time_left(run, capsys, urls):
    assert run("tinyshakespeare", PLAY, *urls.split()) == ({"x.txt": PLAY}, None)
    assert re.search(r"100%.*\[\d+:\d+<\d+:\d+", capsys.readouterr().err)


def test_a_broken_download_is_resumed(run, server):
    files, message = run("tinyshakespeare", PLAY, break_after=len(PLAY) // 2)
    part = files.pop("x.txt.part")
    assert files == {} and part and PLAY.startswith(part)
    assert "/text: connection failed" in message and "\n" not in message
    assert run("tinyshakespeare", PLAY) == ({"x.txt": PLAY}, None)
    assert server.asked == [None, f"bytes={len(part)}-"]


@pytest.mark.parametrize("kept, ranged", [(1000, False), (len(PLAY), True)], ids=["all", "nothing"])
def test_a_server_that_sends_all_again_or_has_nothing_left(run, server, tmp_path, kept, ranged):
    (tmp_path / "x.txt.part").write_bytes(PLAY[:kept])
    server.ranged = ranged
    assert run("tinyshakespeare", PLAY) == ({"x.txt": PLAY}, None)


def test_what_is_wrong_leaves_nothing(run):
    files, message = run("tinyshakespeare", PLAY, sha256="0" * 64)
    assert files == {} and "/text: wrong checksum" in message
    files, message = run("gutenberg", b"<html>Not found</html>", number="7")
    assert files == {} and "not gutenberg 7" in message


def test_without_any_address_a_file_downloaded_by_hand_is_used(run, tmp_path):
    files, message = run("tinyshakespeare", PLAY, "missing", "gone")
    assert files == {} and "/missing: 404;" in message and "/gone: 404;" in message
    Path(re.search("by hand to (.*) and", message)[1]).write_bytes(PLAY)
    assert run("tinyshakespeare", PLAY, "missing") == ({"x.txt": PLAY}, None)


def test_a_book_comes_without_its_license(run, server):
    book = "\ufeffThe eBook of A\n*** START OF THE PROJECT GUTENBERG EBOOK A\nB ***\n\nOne * é\n\nTwo\n\n"
    book += "End of Project Gutenberg's A\nB\n\n*** END OF THIS PROJECT GUTENBERG EBOOK A B ***\nLicense"
    book = (book + "\n" * 200_000).replace("\n", "\r\n").encode()
    assert "connection failed" in run("gutenberg", book, number="7", break_after=100_000)[1]
    assert run("gutenberg", book, number="7") == ({"x.txt": "One * é\n\nTwo\n".encode()}, None)
    assert server.asked == [None, None]  # without a checksum, halves are never joined


def test_stories_are_separated_by_a_blank_line(run):
    stories = b"\nOne.\n\nStill one.\n<|endoftext|>\n\nTwo.\n<|endoftext|>\n"
    assert run("tinystories", stories)[0] == {"x.txt": b"One.\nStill one.\n\nTwo.\n\n"}


def test_an_archive_with_hostile_paths(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(archive := io.BytesIO(), "w") as file:
        for path in ["../evil.txt", str(tmp_path / "evil.txt"), "evil.txt"]:
            file.writestr(path, "evil")
        file.writestr("wikitext-103-raw/wiki.train.raw", " \n = Title = \n \n Text , é . \n")
    text = "\n= Title =\n\nText , é .\n".encode()
    assert run("wikitext103", archive.getvalue()) == ({"x.txt": text}, None)
    assert not (tmp_path.parent / "evil.txt").exists()


@pytest.mark.parametrize("name", get.SOURCES)
def test_without_a_network_one_line_names_the_real_addresses(name, tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # nobody listens there
    monkeypatch.setenv("no_proxy", "")
    message = call([name, *["7"] * (name == "gutenberg"), "--out", str(tmp_path / "x.txt")])
    assert "\n" not in message and not any(tmp_path.iterdir())
    for url in get.SOURCES[name][2:]:
        assert url.startswith("https://") and f"{url.format(7)}: connection failed;" in message


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(SystemExit, match="pip install pooch"):
        runpy.run_path(get.__file__)


@pytest.mark.parametrize("words", ["nothing", "gutenberg", "tinystories 3", "gutenberg 1 --out /"])
def test_bad_arguments(words, capsys):
    assert call(words.split()) == 2
    assert "get.py: error: " in capsys.readouterr().err
