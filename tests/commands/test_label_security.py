"""What others can do to the page of `hfkit label`: nothing."""

import asyncio
import json
import signal
import socket
import stat
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from conftest import write_rows
from fastapi import FastAPI
from label_pages import Labeler, request
from network import LOCAL_PORTS

from hfkit.commands.label import sessions
from hfkit.commands.label.sessions import MOST_ATTEMPTS, Sessions
from hfkit.commands.web.server import ServerThread, open_socket
from hfkit.core.errors import HfkitError

PASSWORD = "correct horse"
ROWS = [{"prompt": f"Question {n}?", "replies": ["yes", "no"]} for n in range(4)]


@pytest.fixture(scope="module")
def server(servers, tmp_path_factory):
    """A page without a password."""
    folder = tmp_path_factory.mktemp("open")
    rows = write_rows(folder / "rows.jsonl", ROWS)
    return servers.start(rows, "--output_dir", folder / "labels", "--port", 0, output=folder / "printed.txt")


@pytest.fixture(scope="module")
def guarded(servers, tmp_path_factory):
    """A page with a password that listens on all addresses."""
    folder = tmp_path_factory.mktemp("guarded")
    rows, secret = write_rows(folder / "rows.jsonl", ROWS), folder / "password"
    secret.write_text(f"{PASSWORD}\n")
    secret.chmod(0o600)
    argv = (rows, "--output_dir", folder / "labels", "--port", 0, "--host", "0.0.0.0", "--password_file", secret)
    started = servers.start(*argv, output=folder / "printed.txt")
    started.url = f"http://127.0.0.1:{started.url.rpartition(':')[2]}"
    return started, folder


def test_without_a_session_nothing_is_shown_or_saved(server):
    for method, path in [
        ("GET", "/api/next"),
        ("GET", "/api/rows/x"),
        ("POST", "/api/judgements"),
        ("POST", "/api/undo"),
    ]:
        status, _, answer = request(server.url, method, path, {"id": "x" * 8} if method == "POST" else None)
        assert (status, answer) == (401, {"error": "log in first"})
    assert request(server.url, "GET", "/api/next", Cookie="hfkit_label_00000000=forged")[0] == 401


def test_a_password_is_required_and_a_wrong_one_takes_a_second(guarded):
    page, folder = guarded
    assert request(page.url, "GET", "/api/setup")[2]["needs_password"] is True

    def seconds_of(wrong: object, source: str) -> float:
        began = time.monotonic()
        given = {"labeler": "Eve", "password": wrong}
        assert request(page.url, "POST", "/api/login", given, source=source)[0] == 403
        return time.monotonic() - began

    wrong, sources = [None, 5, f"{PASSWORD} "], ["127.0.0.3", "127.0.0.4", "127.0.0.5"]  # those of one take turns
    with ThreadPoolExecutor(3) as pool:
        assert min(pool.map(seconds_of, wrong, sources)) >= 1
    ann = Labeler(page.url, "Ann", PASSWORD)
    assert ann.next()["total"] == 4
    assert PASSWORD not in page.printed()
    session = ann.cookie.partition("=")[2]
    sessions = folder / "labels" / "sessions.json"
    assert stat.S_IMODE(sessions.stat().st_mode) == 0o600
    assert session not in sessions.read_text() and session not in page.printed()


def test_wrong_passwords_delay_nobody_at_another_address(guarded):
    page, _ = guarded
    port = urlsplit(page.url).port
    LOCAL_PORTS.add(port)
    body = b'{"labeler": "Eve", "password": "a guess"}'
    head = f"POST /api/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    content = head.encode() + b"Content-Type: application/json\r\n\r\n" + body
    with ExitStack() as guesses:
        status = None
        while status != 429:  # all attempts of the address that may wait are waiting
            for _ in range(MOST_ATTEMPTS):
                connection = socket.create_connection(("127.0.0.1", port), 60, ("127.0.0.2", 0))
                guesses.enter_context(connection).sendall(content)
            status = request(page.url, "POST", "/api/login", {"labeler": "Eve", "password": ""}, source="127.0.0.2")[0]
        Labeler(page.url, "Bob", PASSWORD)
        assert request(page.url, "POST", "/api/login", {"labeler": "Eve"}, source="127.0.0.2")[0] == 429


def test_wrong_passwords_of_an_address_take_turns_and_further_ones_do_not_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "WRONG_PASSWORD_SECONDS", 0.02)

    async def guess() -> tuple[Counter, float]:
        page, began = Sessions(tmp_path / "sessions.json", PASSWORD), time.monotonic()
        tried = [asyncio.create_task(page.is_allowed("a guess", "127.0.0.2")) for _ in range(20)]
        await asyncio.sleep(0)
        assert await page.is_allowed(PASSWORD, "127.0.0.1") and Counter(one.done() for one in tried)[False] == 8
        ended = await asyncio.gather(*tried, return_exceptions=True)
        assert await page.is_allowed(PASSWORD, "127.0.0.2")
        return Counter(getattr(one, "status_code", one) for one in ended), time.monotonic() - began

    ended, seconds = asyncio.run(guess())
    assert ended == {False: MOST_ATTEMPTS, 429: 20 - MOST_ATTEMPTS} and seconds >= MOST_ATTEMPTS * 0.02


@pytest.mark.slow
def test_a_session_survives_a_restart_and_ends_with_a_new_password(servers, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    argv = (rows, "--output_dir", tmp_path / "labels", "--port", 0)
    seen = []
    for number, password in enumerate([PASSWORD, PASSWORD, "another one"]):
        page = servers.start(*argv, output=tmp_path / f"{number}.txt", HFKIT_LABEL_PASSWORD=password)
        if number == 0:
            cookie = Labeler(page.url, "Ann", password).cookie
        seen.append(request(page.url, "GET", "/api/setup", Cookie=cookie)[2]["labeler"])
        page.end(signal.SIGTERM)
    assert seen == ["Ann", "Ann", None]
    assert PASSWORD not in json.dumps([file.read_text() for file in tmp_path.rglob("*") if file.is_file()])


def test_the_cookie_is_kept_from_scripts_and_other_sites(server):
    headers = request(server.url, "POST", "/api/login", {"labeler": "Ann"})[1]
    assert "HttpOnly" in headers["set-cookie"] and "SameSite=strict" in headers["set-cookie"]


@pytest.mark.parametrize(
    "name",
    ["", " Ann", "a" * 41, "Ann\n", "<b>", "a/b", "../x", "\u0300", "a" + "\u0300" * 41, 5, None, ["Ann"], "rw.py:f"],
)
def test_names_are_validated(server, name):
    assert request(server.url, "POST", "/api/login", {"labeler": name})[0] == 422


@pytest.mark.parametrize("name", ["Ann", "a", "Zoë O'Neil", "李", "प्रिया", "สมศรี", "ann@example.org", "a" * 40])
def test_usual_names_are_accepted(server, name):
    assert Labeler(server.url, name).answer == {"labeler": name}


def test_two_ways_to_encode_a_name_are_one_labeler(server):
    assert Labeler(server.url, "Zoe\u0308").answer == {"labeler": "Zo\u00eb"}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "", "localhost.evil"])
def test_a_foreign_host_is_rejected(server, guarded, host):
    """The browser of a victim sends it after DNS rebinding."""
    for url in (server.url, guarded[0].url):
        assert request(url, "GET", "/api/setup", Host=host)[0] in (400, 403)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:7860", "127.0.0.1:1", "[::1]:7860"])
def test_the_names_of_this_machine_are_accepted(server, host):
    assert request(server.url, "GET", "/api/setup", Host=host)[0] == 200


def test_a_name_is_allowed_by_its_flag(servers, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    argv = (rows, "--output_dir", tmp_path / "labels", "--port", 0, "--allowed_hosts", "labels.example")
    page = servers.start(*argv, output=tmp_path / "printed.txt")
    assert request(page.url, "GET", "/api/setup", Host="labels.example")[0] == 200
    assert request(page.url, "GET", "/api/setup", Host="other.example")[0] == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_a_post_of_another_site_is_rejected(server, headers):
    ann = Labeler(server.url, "Ann")
    row = ann.next()["row"]
    event = {"id": "of-another-site", "row": row["row"], "ranks": [1, 2]}
    assert ann.send("POST", "/api/judgements", event, **headers)[0] == 403
    own = {"Origin": server.url, "Sec_Fetch_Site": "same-origin"}
    assert ann.send("POST", "/api/judgements", event | {"ranks": "x"}, **own)[0] == 422


@pytest.mark.parametrize(
    "path",
    ["/../main.py", "/%2e%2e/main.py", "/..%2fmain.py", "/page/../../main.py", "//etc/passwd", "/labels_file.py"],
)
def test_only_the_files_of_the_page_are_served(server, path):
    status, _, content = request(server.url, "GET", path)
    assert (status == 404 and content == {"error": "no such page"}) or content == {"error": "Not Found"}


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_the_interface_describes_itself_to_nobody(server, path):
    assert request(server.url, "GET", path)[0] == 404


def test_every_answer_has_the_headers(server):
    for method, path in (("GET", "/"), ("GET", "/nowhere"), ("GET", "/api/next"), ("POST", "/api/login")):
        headers = {name.lower(): value for name, value in request(server.url, method, path)[1].items()}
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b"1", 400),
        (b"[" * 100_000, 400),
        (rb'{"labeler": "\ud800"}', 400),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, 400),
        (b'{"labeler": "' + b"a" * (1 << 20) + b'"}', 413),
    ],
    ids=["empty", "cut", "not-utf8", "list", "number", "deep-list", "surrogate", "deep-object", "huge"],
)
def test_a_body_that_is_not_a_small_object_is_rejected(server, body, status):
    assert request(server.url, "POST", "/api/login", body)[0] == status
    assert request(server.url, "GET", "/api/setup")[0] == 200


def test_an_endless_body_is_cut_off(server):
    """A body in chunks has no length that could be checked in advance."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as wire:
        head = f"POST /api/login HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        wire.sendall(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while sent < 64 << 20:
                wire.sendall(b"10000\r\n" + b"x" * 65_536 + b"\r\n")
                sent += 65_536
        except OSError:
            pass
    assert sent < 64 << 20
    assert request(server.url, "GET", "/api/setup")[0] == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "short"},
        {"id": "x" * 65},
        {"id": 5},
        {"id": "../../../etc"},
        {"kind": "undo"},
        {"kind": "other"},
        {"ranks": [1]},
        {"ranks": [0, 1]},
        {"ranks": [1, 3]},
        {"ranks": [1, True]},
        {"ranks": [1.0, 2]},
        {"ranks": ["1", "2"]},
        {"ranks": {"0": 1}},
        {"ranks": [None, None]},
        {"ranks": None},
        {"ranks": None, "answer": "  "},
        {"seconds": -1},
        {"seconds": "1"},
        {"seconds": True},
        {"seconds": 10**400},
        {"answer": 5},
        {"answer": "x" * 200_001},
        {"note": ["x"]},
        {"all_bad": "yes"},
        {"flags": [["unknown"], []]},
        {"flags": [[], [], []]},
        {"flags": [[{}], []]},
    ],
    ids=lambda fields: "-".join(f"{name}-{str(value)[:20]}" for name, value in fields.items()),
)
def test_a_judgement_with_an_invalid_field_is_rejected_and_not_saved(server, fields):
    ann = Labeler(server.url, "Ann")
    row = ann.next()["row"]
    event = {"id": "x" * 8, "row": row["row"], "ranks": [1, 2], "seconds": 1}
    status, _, answer = ann.send("POST", "/api/judgements", event | fields)
    assert status == 422 and answer["error"]
    assert ann.next()["done"] == 0


@pytest.mark.parametrize("row", ["nowhere", 5, None, ["x"], {}])
def test_a_judgement_of_an_unknown_row_is_rejected(server, row):
    ann = Labeler(server.url, "Ann")
    assert ann.send("POST", "/api/judgements", {"id": "x" * 8, "row": row, "ranks": [1, 2]})[0] == 404


def test_a_client_that_hangs_up_does_not_disturb_others(server):
    host, port = server.url.removeprefix("http://").split(":")
    for data in (b"", b"GET", b"POST /api/login HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", b"\x00" * 1000):
        with socket.create_connection((host, int(port)), timeout=30) as wire:
            wire.sendall(data)
    assert Labeler(server.url, "Ann").next()["row"] is not None
    assert "Traceback" not in server.printed(), server.printed()


def test_connections_without_a_request_do_not_block_the_page(monkeypatch):
    """Without a limit, 500 of them make the page answer 503 to everyone until they close."""
    monkeypatch.setattr("hfkit.commands.web.compat_uvicorn.HEADER_SECONDS", 0.5)
    bound = open_socket("127.0.0.1", 0)
    address = bound.getsockname()
    LOCAL_PORTS.add(address[1])
    with ServerThread(FastAPI(), bound):
        wires = [socket.create_connection(address, timeout=30) for _ in range(3)]
        request_line = b"GET /x HTTP/1.1\r\nHost: localhost\r\n"
        wires[1].sendall(request_line)
        wires[2].sendall(request_line + b"\r\n")
        answer = b""
        while not answer.endswith(b"}") and (part := wires[2].recv(4096)):
            answer += part
        assert answer.startswith(b"HTTP/1.1 404") and answer.endswith(b"}")
        wires[2].sendall(request_line)  # a second request that does not end either
        for wire in wires:
            assert wire.recv(4096) == b""
            wire.close()


def test_a_port_that_another_program_took_meanwhile_is_an_error():
    """Two sockets can be bound to one port until one of them listens."""
    with open_socket("127.0.0.1", 0) as bound, socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(bound.getsockname())
        other.listen()
        with pytest.raises(HfkitError, match=f"cannot listen on 127.0.0.1, port {bound.getsockname()[1]}"):
            ServerThread(FastAPI(), bound).__enter__()
