"""`omgsr serve`: the queue's server, the API and the workers as child processes, started and stopped in order."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

import httpx
import structlog
from rich.console import Console

from service.api.ports import listen
from service.child import start_child
from service.errors import ServiceError
from service.queue.embedded import EmbeddedServer
from service.settings import BUNDLED_MODELS, Settings
from service.telemetry import configure_logging

POLL_S = 0.1
READY_S = 600.0
MARGIN_S = 5.0
"""Beyond the drain; then a child that does not stop is killed."""
STEADY_S = 60.0
"""A child that ran for so long has proved itself: its next end is the first again."""
BACKOFF_S = (0.2, 1.0, 5.0, 15.0, 30.0)
SAMPLE = BUNDLED_MODELS / "sample.jpg"

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""For a worker: on a CPU a large image's maps are new pages by the hundred thousand, which the kernel has to blank."""
_log = structlog.get_logger(__name__)
_out = Console(highlight=False)


class StartFailed(ServiceError):
    """A process that the service needs has ended, or is not ready in time."""

    title = "The service did not start"
    advice = "The lines above say why."


class Child:
    """A process that is started again whenever it ends, each time a little later."""

    def __init__(self, name: str, command: Sequence[str], env: dict[str, str]) -> None:
        self.name = name
        self._command = command
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self._ends = 0
        self._began = self._next = 0.0

    @property
    def ended(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll() if self._process else None

    def start(self) -> None:
        """Start it."""
        self._process = start_child([sys.executable, "-m", "service.cli", *self._command], env=self._env)
        self._began, self._next = time.monotonic(), 0.0

    def watch(self) -> None:
        """Start it again if it has ended and its pause is over."""
        if self.ended is None:
            return
        now = time.monotonic()
        if not self._next:
            self._ends = 0 if now - self._began > STEADY_S else self._ends
            pause = BACKOFF_S[min(self._ends, len(BACKOFF_S) - 1)]
            self._ends, self._next = self._ends + 1, now + pause
            _log.error("process ended, starting it again", process=self.name, status=self.ended, pause_s=pause)
        elif now >= self._next:
            self.start()

    def stop(self, patience_s: float) -> None:
        """Ask it to stop, and wait until it has."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            _log.error("process does not stop, killing it", process=self.name)
            self._process.kill()
            self._process.wait()


def serve(settings: Settings, *, workers: int, demo: bool) -> None:
    """Run the whole service until SIGTERM or Ctrl-C; a second one ends it at once."""
    configure_logging(settings.log_level)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each look at /readyz says nothing
    settings = _with_free_ports(settings)
    with _signals_as_exit(), ExitStack() as stack:
        server = None if settings.redis_url else stack.enter_context(EmbeddedServer(settings.state_dir))
        env = _environment(settings, settings.redis_url or (server.url if server else ""))
        # Stopped in the reverse order of this list: the API first, the queue's server last.
        children = [
            Child(f"worker {number}", ["worker"], HUGE_PAGES | env | _worker_port(settings, number))
            for number in range(workers)
        ]
        children.append(Child("api", ["api"], env))
        for child in children:
            child.start()
            stack.callback(child.stop, settings.drain_s + MARGIN_S)
        # Its own child on its own machine, whose certificate is for the name that clients know it by.
        with httpx.Client(base_url=_address(settings), trust_env=False, verify=False) as client:  # noqa: S501
            _wait_ready(client, children)
            _print_welcome(client, settings)
            if demo:
                _upscale_sample(client, settings.state_dir)
        while True:
            time.sleep(POLL_S)
            if server and server.process and server.process.poll() is not None:
                _log.error("the queue's server ended, starting it again")
                server.start()
            for child in children:
                child.watch()


@contextmanager
def _signals_as_exit() -> Iterator[None]:
    def leave(_number: int, _frame: FrameType | None) -> NoReturn:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)  # a second one kills; the children die with this process
        raise SystemExit(0)

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, leave)
    yield


def _with_free_ports(settings: Settings) -> Settings:
    """The same settings with real port numbers. Raises PortTaken before anything is started."""
    with (
        closing(listen(settings.host, settings.port)) as rest,
        closing(listen(settings.host, settings.grpc_port)) as grpc,
    ):
        return settings.model_copy(update={"port": rest.getsockname()[1], "grpc_port": grpc.getsockname()[1]})


def _environment(settings: Settings, redis_url: str) -> dict[str, str]:
    """The settings as children read them; relative paths mean the same to all."""
    values = settings.model_dump(mode="json", exclude_none=True, exclude={"redis_url"})
    told = {
        f"OMGSR_{name.upper()}": json.dumps(value) if isinstance(value, list | dict) else str(value)
        for name, value in values.items()
    }
    return {**os.environ, **told, "REDIS_URL": redis_url}


def _address(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 — compared only
    return f"{'https' if settings.tls_cert else 'http'}://{host}:{settings.port}"


def _worker_port(settings: Settings, number: int) -> dict[str, str]:
    """Workers on one machine listen side by side."""
    return {"OMGSR_WORKER_PORT": str(settings.worker_port + number)} if settings.worker_port else {}


def _wait_ready(client: httpx.Client, children: Sequence[Child]) -> None:
    give_up = time.monotonic() + READY_S
    while time.monotonic() < give_up:
        for child in children:
            if child.ended is not None:
                raise StartFailed(f"The process `{child.name}` ended with status {child.ended} while starting.")
        try:
            if client.get("/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(POLL_S)
    raise StartFailed(f"The service was not ready within {READY_S:g} s.")


def _print_welcome(client: httpx.Client, settings: Settings) -> None:
    address = _address(settings)
    answer = client.get("/v1/models")
    models = [model["name"] for model in answer.json()["models"]] if answer.is_success else ["an API key is asked for"]
    _out.print(f"\n[bold green]OMGSR Serve is ready[/]  [bold]{address}/[/]")
    _out.print(f"  API docs  {address}/docs")
    _out.print(f"  gRPC      {settings.host}:{settings.grpc_port}")
    _out.print(f"  models    {', '.join(models)}")
    _out.print(f"  try       curl -f -F image=@photo.jpg {address}/v1/upscale -o out.png", soft_wrap=True)
    _out.print("  stop      Ctrl-C\n")


def _upscale_sample(client: httpx.Client, folder: Path) -> None:
    """Send the bundled photo the way a client does, and say where its result lies."""
    began = time.monotonic()
    answer = client.post("/v1/upscale", files={"image": (SAMPLE.name, SAMPLE.read_bytes())}, timeout=READY_S)
    if answer.is_error:
        raise StartFailed(f"The sample photo could not be upscaled: {answer.text}")
    result = folder.resolve() / "sample-4x.png"
    result.write_bytes(answer.content)
    seconds = time.monotonic() - began
    _out.print(f"  sample    {SAMPLE}\n  upscaled  [bold]{result}[/]  ({seconds:.1f} s)\n", soft_wrap=True)
