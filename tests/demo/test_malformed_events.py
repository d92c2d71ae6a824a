"""Events that the page would never send: each is refused, the log has no traceback, and the page still answers."""

import http.client
import json
import logging
import socket
import urllib.error
import urllib.request

import pytest

from beta_clip_hf.demo.app import open_page
from beta_clip_hf.demo.limits import Limits


pytestmark = pytest.mark.slow

DATA = [None, [], {}, "text", 3, [None] * 3, [[[]]] * 9, [{"path": "/etc/passwd"}] * 4, ["a" * 5000, -1], [1e308, {}]]
SESSIONS = ["s", None, 7, ["s"], {"a": 1}, "a" * 5000, "\x1b[2J"]


@pytest.fixture(scope="module")
def address(checkpoint):
    pytest.importorskip("gradio")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open_page(Limits(per_minute=10_000), model=str(checkpoint), device="cpu", num_scenes=2) as page:
        from beta_clip_hf.demo.page import launch

        yield launch(page, port=port).rstrip("/")
        page.blocks.close(verbose=False)


def post(address, body, content_type="application/json"):
    """Sends a request and returns the code of its answer."""
    headers = {"Content-Type": content_type}
    request = urllib.request.Request(address, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.read()
        return error.code


def get(address):
    with urllib.request.urlopen(address, timeout=60) as answer:
        return answer.status, answer.read()


def listen(address, session):
    """Reads the answers of a session until the server closes, or for a while."""
    try:
        with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash={session}", timeout=5) as answer:
            return answer.read()
    except (OSError, http.client.HTTPException):
        return b""


def test_malformed_events_leave_no_traceback(address, capfd, caplog):
    config = json.loads(get(f"{address}/config")[1])
    functions = [dependency["id"] for dependency in config["dependencies"]]
    assert functions
    codes = []
    with caplog.at_level(logging.INFO):
        for number, data in enumerate(DATA):
            session = f"session{number}"
            for function in [*functions, -1, 10**6, "0", None]:
                event = {"data": data, "fn_index": function, "session_hash": session, "event_data": {"index": []}}
                codes.append(post(f"{address}/gradio_api/queue/join", json.dumps(event).encode()))
            listen(address, session)
        for session in SESSIONS:
            event = {"data": ["a dog", 3, False], "fn_index": functions[0], "session_hash": session, "trigger_id": {}}
            codes.append(post(f"{address}/gradio_api/queue/join", json.dumps(event).encode()))
        for path in ("queue/join", "run/predict", "api/predict", "call/search", "reset", "upload", "cancel", "nothing"):
            for body in (b"", b"{", b"[" * 10_000, b"\xff\xfe", b'{"event_id": 3}', b"null"):
                codes.append(post(f"{address}/gradio_api/{path}", body))
            codes.append(post(f"{address}/gradio_api/{path}", b"--x", "multipart/form-data; boundary=x"))
    assert set(codes) <= {200, *range(400, 500), 500, 503} and len(codes) > 100
    assert get(f"{address}/")[0] == 200
    written = capfd.readouterr()
    logged = "\n".join(record.getMessage() for record in caplog.records)
    for text in (written.out, written.err, logged):
        assert "Traceback" not in text
    assert not any(record.exc_info for record in caplog.records if record.levelno > logging.DEBUG)
