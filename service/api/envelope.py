"""What goes around every HTTP request: its id, its time, its line in the log, an answer for the unexpected."""

import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import ProblemResponse
from service.errors import ServiceError
from service.telemetry import REQUEST_DURATION

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_QUIET = {"/livez", "/readyz", "/metrics"}
"""Asked all day by machines: they would drown what people want to see."""

_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""On every answer that has nothing else to say about it: photos are private, and no answer is a page but two."""

_log = structlog.get_logger(__name__)


class Envelope:
    """ASGI middleware. Handlers may leave in `request.state` a `model`, `stages` in seconds and a `job_id`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        with structlog.contextvars.bound_contextvars(request_id=exchange.id):
            try:
                await self.app(scope, receive, exchange.send)
            except Exception:
                _log.exception("unexpected error", path=scope["path"])
                if exchange.code:  # half an answer is out: only a broken connection tells the client
                    raise
                answer = ProblemResponse(ServiceError("An unexpected error; it has been logged.").problem())
                await answer(scope, receive, exchange.send)
            finally:
                exchange.record()


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        self.id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        self.code = 0
        self._endless = False
        """It lasts as long as there is something to say: its duration would drown the others."""
        self._scope, self._send = scope, send
        self._began = time.perf_counter()
        # A dict of the request's own: the one that comes with the scope may be shared.
        ours = {"request_id": self.id, "model": "", "stages": {}, "job_id": ""}
        self._state = scope["state"] = {**scope.get("state", {}), **ours}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.code = message["status"]
            headers = MutableHeaders(scope=message)
            self._endless = headers.get("content-type", "").startswith("text/event-stream")
            headers["X-Request-Id"] = self.id
            if self._state["job_id"]:
                headers["X-Job-Id"] = self._state["job_id"]
            for name, value in _SAFE.items():
                headers.setdefault(name, value)
            stages = {**self._state["stages"], "total": self._seconds()}
            headers["Server-Timing"] = ", ".join(f"{name};dur={1000 * s:.1f}" for name, s in stages.items())
        await self._send(message)

    def record(self) -> None:
        """To the metrics and the log."""
        path, code, seconds = self._scope["path"], self.code or 499, self._seconds()
        if path in _QUIET:
            return
        if not self._endless:
            REQUEST_DURATION.labels("rest", self._state["model"], code).observe(seconds)
        _log.info("request", method=self._scope["method"], path=path, code=code, seconds=round(seconds, 4))

    def _seconds(self) -> float:
        return time.perf_counter() - self._began
