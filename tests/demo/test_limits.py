import asyncio

import numpy as np
import pytest
from PIL import Image

from beta_clip_hf.demo.limits import CONTENT_POLICY, Guard, Limits, RateLimit


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (1000, 100), "red").save(path)
    return path


def test_an_image_within_the_limits_is_read(picture):
    image = Limits(megapixels=0.1).image(str(picture))
    assert image.size == (1000, 100) and image.mode == "RGB" and image.getpixel((5, 5)) == (255, 0, 0)


def test_an_image_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert Limits().image(str(tmp_path / "turned.jpg")).size == (20, 40)


def test_too_many_pixels_are_refused_before_they_are_decoded(picture, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(
        ValueError, match=r"may have 0\.09 million pixels, but this one has 1000 × 100: make it smaller"
    ):
        Limits(megapixels=0.09).image(str(picture))


@pytest.mark.parametrize("length", [60, 0])
def test_what_is_no_image_is_told_without_its_path(picture, length):
    picture.write_bytes(picture.read_bytes()[:length])
    with pytest.raises(ValueError) as error:
        Limits().image(str(picture))
    assert str(picture.parent) not in str(error.value) and "image" in str(error.value)
    with pytest.raises(ValueError, match="There is no image yet"):
        Limits().image(None)


def test_grey_of_more_bits_is_grey(tmp_path):
    grey = np.full((4, 6), 100, np.uint16)
    Image.fromarray(grey * 257).save(tmp_path / "deep.png")
    assert Limits().image(str(tmp_path / "deep.png")).getpixel((0, 0)) == (100, 100, 100)
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "heights.tif")
    with pytest.raises(ValueError, match="damaged, or of a rare kind: try a whole PNG or JPEG"):
        Limits().image(str(tmp_path / "heights.tif"))


def test_texts_are_neither_blank_nor_endless():
    limits = Limits(characters=10)
    assert limits.text("  a red hat ", "The caption") == "a red hat"
    for blank in ("  \n", None):
        with pytest.raises(ValueError, match="The caption is empty"):
            limits.text(blank, "The caption")
    with pytest.raises(ValueError, match="The caption may have 10 characters, but has 11"):
        limits.text("a" * 11, "The caption")


@pytest.mark.parametrize("name", ["upload_mib", "megapixels", "per_minute", "characters"])
def test_limits_are_above_zero(name):
    for value in (0, float("nan")):
        with pytest.raises(ValueError, match=f"{name} must be above 0, but is"):
            Limits(**{name: value})


def test_each_client_has_so_many_requests_in_any_minute():
    now = [0.0]
    rate = RateLimit(2, clock=lambda: now[0])
    assert [rate.wait("a"), rate.wait("a"), rate.wait("a"), rate.wait("b")] == [0, 0, 60, 0]
    now[0] = 45
    assert rate.wait("a") == 15
    now[0] = 60
    assert [rate.wait("a"), rate.wait("a"), rate.wait("a")] == [0, 0, 60]


def test_clients_are_forgotten_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr("beta_clip_hf.demo.limits.MOST_CLIENTS", 2)
    rate = RateLimit(1, clock=lambda: 0.0)
    assert [rate.wait(client) for client in ("a", "b", "a", "c", "a", "b")] == [0, 0, 60, 0, 60, 0]


def ask(guard, method="POST", path="/gradio_api/upload", client=("10.0.0.1", 5), **headers):
    """Status, headers and body of the answer to one request."""
    sent = []

    async def send(message):
        sent.append(message)

    names = [(name.replace("_", "-").encode(), str(value).encode()) for name, value in headers.items()]
    asyncio.run(guard({"type": "http", "method": method, "path": path, "headers": names, "client": client}, None, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


async def page(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"server", b"page")]})
    await send({"type": "http.response.body", "body": b"page"})


def test_requests_are_counted_and_measured():
    guard = Guard(page, Limits(upload_mib=1), RateLimit(2))
    assert ask(guard, content_length=5)[::2] == (200, b"page")
    status, headers, body = ask(guard, content_length=2 * 2**20 + 1)
    assert (status, body.decode()) == (413, "A file may have 1 MiB, but this one has more.")
    assert headers[b"content-length"] == str(len(body)).encode()
    assert ask(guard)[0] == 411
    assert ask(guard, content_length=2 * 2**20)[0] == 200
    status, _, body = ask(guard, content_length=5)
    assert status == 429 and body.decode().startswith("You have asked 2 times within a minute: wait ")
    assert ask(guard, content_length=5, client=("10.0.0.2", 5))[0] == 200
    assert ask(guard, method="GET")[0] == 200  # pages and pictures are not counted
    assert ask(guard, path="/gradio_api/queue/join", content_length=5)[0] == 200  # questions are, by those who answer


def test_other_names_and_other_sites_are_refused():
    guard = Guard(page, Limits(), RateLimit(100), hosts=["demo.example", "*.gradio.live"])
    for host in ("localhost:7860", "127.0.0.1:7860", "[::1]:7860", "192.168.1.5", "demo.example", "x.gradio.live:443"):
        assert ask(guard, method="GET", host=host)[0] == 200, host
        assert ask(guard, host=host, origin=f"http://{host}", content_length=5)[0] == 200
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", "gradio.live.evil.example"):
        assert ask(guard, method="GET", host=host)[0] == 421, host
        assert ask(guard, host=host, content_length=5)[0] == 421
    for origin in ("http://evil.example", "https://localhost:7860.evil.example", "null", "http://localhost:1"):
        assert ask(guard, host="localhost:7860", origin=origin, content_length=5)[0] == 403, origin


def test_a_slow_request_is_hung_up():
    received = []

    async def reading(scope, receive, send):
        received.append(await receive())
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b""})

    async def never():
        await asyncio.sleep(60)

    async def send(message):
        pass

    guard = Guard(reading, Limits(seconds=0.05), RateLimit(2))
    scope = {"type": "http", "method": "POST", "path": "/upload", "headers": [(b"content-length", b"5")]}
    asyncio.run(guard(scope, never, send))
    assert received == [{"type": "http.disconnect"}]


def test_every_answer_keeps_the_page_to_itself():
    guard = Guard(page, Limits(), RateLimit(1))
    for answer in (ask(guard, method="GET"), ask(guard)):
        headers = answer[1]
        assert headers[b"content-security-policy"].decode() == CONTENT_POLICY
        assert headers[b"x-content-type-options"] == b"nosniff" and headers[b"referrer-policy"] == b"no-referrer"
    assert "http" not in CONTENT_POLICY and "default-src 'self'" in CONTENT_POLICY


def test_what_is_no_request_passes():
    passed = []

    async def app(scope, receive, send):
        passed.append(scope["type"])

    asyncio.run(Guard(app, Limits(), RateLimit(1))({"type": "lifespan"}, None, None))
    assert passed == ["lifespan"]
