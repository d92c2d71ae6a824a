"""What a visitor of the demo may ask for: how large, how often; and what the page itself may load."""

import math
import time
import warnings
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..data.images import load_image


MINUTE = 60.0
MOST_CLIENTS = 10_000  # remembered at a time
# The page loads nothing from elsewhere: it works without a network, and tells nobody that it is used.
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; object-src 'none'"
)
HEADERS = (
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


@dataclass(frozen=True)
class Limits:
    """
    What a visitor may ask for.

    Args:
        upload_mib: Size of a file, in MiB.
        megapixels: Of an image, in millions: a small file may hold a huge one.
        per_minute: Requests of one client: an upload, or anything that the model has to do.
        characters: Of a text.

    Raises:
        ValueError: where one is not above 0.
    """

    upload_mib: float = 10
    megapixels: float = 40
    per_minute: int = 120
    characters: int = 4000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be above 0, but is {value}")

    def image(self, path: str | None) -> Image.Image:
        """
        The image of an uploaded file, in RGB.

        Raises:
            ValueError: where there is none, it cannot be read, or it has too many pixels. The message names no path.
        """
        if path is None:
            raise ValueError("There is no image yet: upload one, or take an example.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we have a limit of our own
                with Image.open(path) as image:
                    width, height = image.size
        except Image.DecompressionBombError:
            raise ValueError(f"An image may have {self.megapixels:g} million pixels, but this one has more.") from None
        except (UnidentifiedImageError, OSError, SyntaxError):  # Pillow's word for a broken PNG
            raise ValueError("This file cannot be read as an image: try a PNG or JPEG.") from None
        if width * height > self.megapixels * 1e6:
            raise ValueError(
                f"An image may have {self.megapixels:g} million pixels, but this one has {width} × {height}: "
                "make it smaller."
            )
        try:
            return load_image(path)
        except ValueError:
            raise ValueError("This image is damaged, or of a rare kind: try a whole PNG or JPEG.") from None

    def text(self, text: str | None, name: str) -> str:
        """
        A text, without blanks around it.

        Raises:
            ValueError: where it is blank or too long.
        """
        text = (text or "").strip()
        if not text:
            raise ValueError(f"{name} is empty: type a few words.")
        if len(text) > self.characters:
            raise ValueError(f"{name} may have {self.characters} characters, but has {len(text)}.")
        return text


def check_port(port: int | None) -> None:
    """Raises `ValueError` where no program can listen on a port; `None` stands for any."""
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"port must be within 1 and 65535, but is {port}")


class RateLimit:
    """
    So many requests of one client within any minute.

    Args:
        per_minute: How many.
        clock: Gives seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock, self._lock = per_minute, clock, Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()  # the client seen last comes last

    def wait(self, client: str) -> float:
        """Seconds until the client may ask again; 0 where it may now, and this request is counted."""
        with self._lock:
            now = self._clock()
            times = self._times.setdefault(client, deque())
            self._times.move_to_end(client)
            while len(self._times) > MOST_CLIENTS:
                self._times.popitem(last=False)
            while times and times[0] <= now - MINUTE:
                times.popleft()
            if len(times) >= self.per_minute:
                return times[0] + MINUTE - now
            times.append(now)
            return 0.0

    def check(self, client: str) -> None:
        """Raises `ValueError`, with a sentence for the client, where it has to wait."""
        if seconds := self.wait(client):
            raise ValueError(
                f"You have asked {self.per_minute} times within a minute: wait {math.ceil(seconds)} seconds."
            )


class Guard:
    """
    ASGI middleware around the demo: refuses requests that are too large, and uploads that are too many, with a sentence
    that the page shows; and adds the headers that keep the page to itself.

    Args:
        app: What it guards.
        limits: See [`Limits`].
        rate: The limit that uploads and questions share.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], limits: Limits, rate: RateLimit) -> None:
        self.app, self.limits, self.rate = app, limits, rate

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles one request."""

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["method"] == "POST" and (refusal := self._refusal(scope)):
            status, sentence = refusal
            body = sentence.encode()
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
            await send_with_headers({"type": "http.response.start", "status": status, "headers": headers})
            return await send({"type": "http.response.body", "body": body})
        return await self.app(scope, receive, send_with_headers)

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        length = dict(scope["headers"]).get(b"content-length", b"").decode("latin-1")
        if not length.isdecimal():
            return 411, "A request must say how long it is."
        if int(length) > (self.limits.upload_mib + 1) * 2**20:  # the form around a file has a size too
            return 413, f"A file may have {self.limits.upload_mib:g} MiB, but this one has more."
        if not scope["path"].endswith("/queue/join"):  # questions are counted where they are answered
            try:
                self.rate.check((scope.get("client") or ("unknown",))[0])
            except ValueError as error:
                return 429, str(error)
        return None
