"""Limits what a visitor of the demo may send, how often, and what the page itself may load."""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus
from ipaddress import ip_address
from threading import Lock
from typing import Any, NamedTuple

from PIL import Image

from ..data.images import load_image
from ..model.image_files_beta_clip import ImageLimits, opened_image


MINUTE = 60.0
# Clients that are remembered at a time. Without a bound, many addresses would fill the memory.
MOST_CLIENTS = 10_000
# A multipart form surrounds an uploaded file.
FORM_BYTES = 2**20
# The page loads nothing from other servers: it works without a network, and tells nobody that it is used.
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
    Sets how much a visitor may send.

    Args:
        upload_mib: Largest size of a file in MiB.
        megapixels: Largest size of an image in millions of pixels. A small file may hold a huge image.
        per_minute: Largest number of requests of one client in a minute: uploads, and questions to the model.
        characters: Largest length of a text.
        seconds: Longest time in which a request must have arrived.

    Raises:
        ValueError: if a limit is not above 0.
    """

    upload_mib: float = 10
    megapixels: float = 40
    per_minute: int = 120
    characters: int = 4000
    seconds: float = 120

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be above 0, but is {value}")

    def image(self, path: str | None) -> Image.Image:
        """
        Reads an uploaded file as an RGB image.

        Raises:
            ValueError: if there is no file, it cannot be read, or it has too many pixels. The message names no path.
        """
        if path is None:
            raise ValueError("There is no image yet: upload one, or take an example.")
        # The size is in the header of the file. It is checked before the pixels take memory.
        self._check_size(path)
        try:
            return load_image(path)
        except ValueError:
            raise ValueError("This image is damaged, or of a rare kind: try a whole PNG or JPEG.") from None

    def _check_size(self, path: str) -> None:
        """Raises `ValueError` if an image has too many pixels, or is no image."""
        without_limits = ImageLimits(math.inf, math.inf, math.inf)
        try:
            with opened_image(path, without_limits) as image:
                width, height = image.size
        # Each codec has exceptions of its own for a broken file.
        except Exception:
            raise ValueError("This file cannot be read as an image: try a PNG or JPEG.") from None
        if width * height > self.megapixels * 1e6:
            raise ValueError(
                f"An image may have {self.megapixels:g} million pixels, but this one has {width} × {height}: "
                "make it smaller."
            )

    def text(self, text: str | None, name: str) -> str:
        """
        Returns a text without white space around it.

        Args:
            text: What the visitor has typed.
            name: What the page calls the text, for error messages.

        Raises:
            ValueError: if the text is blank or too long.
        """
        text = (text or "").strip()
        if not text:
            raise ValueError(f"{name} is empty: type a few words.")
        if len(text) > self.characters:
            raise ValueError(f"{name} may have {self.characters} characters, but has {len(text)}.")
        return text


def check_port(port: int | None) -> None:
    """Raises `ValueError` if no program can listen on a port. `None` stands for any port."""
    if port is not None and not 0 < port < 2**16:
        raise ValueError(f"port must be within 1 and 65535, but is {port}")


class RateLimit:
    """
    Limits the requests of each client within any minute.

    Args:
        per_minute: Largest number of requests in a minute.
        clock: Function that returns the time in seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        # Gradio answers from several threads.
        self._lock = Lock()
        # The times of the requests of each client. The client that was seen last comes last.
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Counts a request and returns 0, or returns the seconds to wait if the client may not ask yet."""
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
        """
        Counts a request.

        Raises:
            ValueError: if the client has to wait. The message is a sentence for the client.
        """
        seconds = self.wait(client)
        if seconds > 0:
            raise ValueError(
                f"You have asked {self.per_minute} times within a minute: wait {math.ceil(seconds)} seconds."
            )


class _Refusal(NamedTuple):
    """Holds the answer to a request that is refused."""

    status: HTTPStatus
    sentence: str


def _host_name(host: str) -> str:
    """
    Returns a host without its port.

    >>> _host_name("localhost:7860"), _host_name("[::1]:7860"), _host_name("10.0.0.1")
    ('localhost', '::1', '10.0.0.1')
    """
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_known_host(name: str, hosts: Sequence[str]) -> bool:
    try:
        # Nobody else can point an address in numbers at this machine.
        ip_address(name)
        return True
    except ValueError:
        return name == "localhost" or any(fnmatchcase(name, pattern.lower()) for pattern in hosts)


def _in_time(receive: Callable[[], Awaitable[Any]], seconds: float) -> Callable[[], Awaitable[Any]]:
    """Hangs up on a client that takes longer than so many seconds to send its request."""
    end = time.monotonic() + seconds
    is_whole = False

    async def receive_in_time() -> Any:
        nonlocal is_whole
        if is_whole:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
        except TimeoutError:
            return {"type": "http.disconnect"}
        is_whole = not message.get("more_body", False)
        return message

    return receive_in_time


class Guard:
    """
    Guards an ASGI application as its middleware.

    It refuses requests that are too large and uploads that are too many, with a sentence that the page shows. To every
    answer it adds the headers that keep the page from loading anything from elsewhere.

    Args:
        app: The application.
        limits: What a visitor may send.
        rate: The limit that uploads and questions share.
        hosts: Names under which the page may be asked for, beside addresses in numbers and localhost. "*.name" stands
            for all names below one; an empty list for any name.
    """

    def __init__(
        self, app: Callable[..., Awaitable[None]], limits: Limits, rate: RateLimit, hosts: Sequence[str] = ()
    ) -> None:
        self.app = app
        self.limits = limits
        self.rate = rate
        self.hosts = hosts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles a request."""

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        if scope["type"] == "websocket" and self._stranger(scope) is not None:
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._stranger(scope)
        if refusal is None and scope["method"] == "POST":
            refusal = self._refusal(scope)
            receive = _in_time(receive, self.limits.seconds)
        if refusal is None:
            await self.app(scope, receive, send_with_headers)
            return
        body = refusal.sentence.encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
        await send_with_headers({"type": "http.response.start", "status": int(refusal.status), "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _stranger(self, scope: Any) -> _Refusal | None:
        """
        Returns why a request does not come from the page itself, or `None`.

        A name that somebody has pointed at this machine must not reach the page: a site in the visitor's browser could
        read the answers. Nor may another site send requests in the visitor's name.
        """
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self.hosts and host and not _is_known_host(_host_name(host), self.hosts):
            return _Refusal(HTTPStatus.MISDIRECTED_REQUEST, "This page is not asked for under this name.")
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        site = origin.partition("://")[2]
        # Behind a proxy, the name that the browser knows may be another than the one that the page is asked under.
        is_own_site = site == host or any(fnmatchcase(_host_name(site), name.lower()) for name in self.hosts)
        if origin and host and not is_own_site:
            return _Refusal(HTTPStatus.FORBIDDEN, "Another site may not ask in the name of a visitor.")
        return None

    def _refusal(self, scope: Any) -> _Refusal | None:
        """Returns why a request is refused, or `None`."""
        length = dict(scope["headers"]).get(b"content-length", b"").decode("latin-1")
        if not length.isdecimal():
            return _Refusal(HTTPStatus.LENGTH_REQUIRED, "A request must say how long it is.")
        if int(length) > self.limits.upload_mib * 2**20 + FORM_BYTES:
            sentence = f"A file may have {self.limits.upload_mib:g} MiB, but this one has more."
            return _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, sentence)
        # Questions to the model are counted where they are answered.
        if scope["path"].endswith("/queue/join"):
            return None
        host, *_ = scope.get("client") or ("unknown",)
        try:
            self.rate.check(host)
        except ValueError as error:
            return _Refusal(HTTPStatus.TOO_MANY_REQUESTS, str(error))
        return None
