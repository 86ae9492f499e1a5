"""The service as its users run it: real processes on free ports, and the certainty that none is left behind."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx
import psutil

from service.queue.embedded import EmbeddedServer
from service.queue.queue import Queue
from service.settings import Settings

OMGSR = [sys.executable, "-m", "service.cli"]
STUB_WORKER = [sys.executable, "-m", "tests.stub_worker"]
STOP_S = 60
PORTS = r'"rest_port": (\d+), "grpc_port": (\d+)'


@dataclass
class Service:
    """A running `omgsr serve`."""

    url: str
    grpc: str
    process: psutil.Process
    settings: Settings
    family: list[psutil.Process]
    """The supervisor and everything it had started when it was ready."""
    log: "Log"

    def child(self, word: str) -> psutil.Process:
        """The child whose command line, or whose program's name, ends in the word."""
        for process in self.process.children(recursive=True):
            if process.cmdline()[-1:] == [word] or process.name().endswith(word):
                return process
        raise AssertionError(f"no child {word!r}")


@dataclass
class Log:
    """The lines of a pipe, read as they come by a thread of its own."""

    pipe: IO[str]
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._grown = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self.pipe:
            with self._grown:
                self.lines.append(line)
                self._grown.notify_all()
        with self._grown:
            self._closed = True
            self._grown.notify_all()

    def find(self, pattern: str, timeout: float = 90) -> re.Match[str]:
        """Wait for the pattern."""

        def found() -> re.Match[str] | None:
            return next((match for line in self.lines if (match := re.search(pattern, line))), None)

        with self._grown:
            self._grown.wait_for(lambda: found() or self._closed, timeout)
            match = found()
        assert match, f"no {pattern!r} in:\n{''.join(self.lines)}"
        return match

    def close(self) -> None:
        """After the process has ended."""
        self._thread.join()
        self.pipe.close()


def not_gone(processes: list[psutil.Process], timeout: float = 10) -> list[psutil.Process]:
    """Those that have not ended within the time. A zombie has: only its new parent has not asked for its status."""
    give_up = time.monotonic() + timeout
    while (left := [each for each in processes if not _ended(each)]) and time.monotonic() < give_up:
        psutil.wait_procs(left, timeout=0.1)
    return left


def _ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """A process that is stopped within the block, and goes on after it."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def environment(state: Path, models: Path, **given: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OMGSR_") and k != "REDIS_URL"}
    ours = {
        "OMGSR_STATE_DIR": str(state),
        "OMGSR_MODELS": f'["{models}"]',
        "OMGSR_PORT": "0",
        "OMGSR_GRPC_PORT": "0",
        "OMGSR_THREADS": "1",
        "OMGSR_BACKEND": "eager",
        "OMGSR_DRAIN_S": "10",
    }
    return kept | ours | given


def settings_of(state: Path, models: Path, **given: float) -> Settings:
    return Settings(state_dir=state, models=[models], **given)


@contextmanager
def running_service(state: Path, models: Path, *arguments: str, **given: str) -> Iterator[Service]:
    """`omgsr serve`, ready; when the block ends it is stopped and has left no process behind."""
    process = subprocess.Popen(
        [*OMGSR, "serve", *arguments],
        env=environment(state, models, **given),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stderr
    out, err = Log(process.stdout), Log(process.stderr)
    supervisor = psutil.Process(process.pid)
    service = None
    try:
        url = out.find(r"is ready\s+(http://\S+?)/?\s")[1]
        grpc = out.find(r"gRPC\s+(\S+)")[1]
        lease_s = float(given.get("OMGSR_LEASE_S", 15))
        family = [supervisor, *supervisor.children(recursive=True)]
        service = Service(url, grpc, supervisor, settings_of(state, models, lease_s=lease_s), family, err)
        out.find(r"stop\s+Ctrl-C")
        yield service
    except AssertionError:
        sys.stderr.write("".join(err.lines))
        raise
    finally:
        family = service.family if service else []
        if process.poll() is None:
            family = [*family, *supervisor.children(recursive=True)]
            process.terminate()
        process.wait(STOP_S)
        left = not_gone(family)
        for each in left:
            each.kill()
        out.close()
        err.close()
    assert not left, f"processes left behind: {left}"


@contextmanager
def running_worker(
    state: Path, models: Path, *, until: str = "worker ready", **given: str
) -> Iterator[tuple[psutil.Process, Log]]:
    """A worker alone, warm (or as far as `until` says); when the block ends it is stopped if it still runs."""
    process = subprocess.Popen(
        [*OMGSR, "worker"], env=environment(state, models, **given), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr
    log = Log(process.stderr)
    try:
        log.find(until)
        yield psutil.Process(process.pid), log
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(STOP_S)
        log.close()


@dataclass
class Part:
    """One process of a service, and what it has said."""

    process: subprocess.Popen[str]
    log: Log

    @property
    def listener(self) -> str:
        """A worker's own, with OMGSR_WORKER_PORT="0"."""
        port = self.log.find(r'"worker_port": (\d+)')[1]
        return f"http://127.0.0.1:{port}"

    @classmethod
    def start(cls, command: list[str], env: dict[str, str]) -> "Part":
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        return cls(process, Log(process.stderr))

    def stop(self) -> int:
        """End it in good order, if it has not ended by itself, and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        finally:
            self.process.kill()
            self.process.wait()
            self.log.close()


@dataclass
class StubService:
    """API, queue and stub workers, each a process that a test may kill, and start again."""

    server: EmbeddedServer
    api: Part
    env: dict[str, str]
    workers: list[Part] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.api.log.find(PORTS)[1]}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.api.log.find(PORTS)[2]}"

    @property
    def admin(self) -> str:
        """With OMGSR_ADMIN_PORT="0"."""
        port = self.api.log.find(r'"admin_port": (\d+)')[1]
        return f"http://127.0.0.1:{port}"

    @property
    def settings(self) -> Settings:
        """As the processes read them."""
        told = {name.removeprefix("OMGSR_").lower(): value for name, value in self.env.items() if "OMGSR_" in name}
        return Settings(**{name: value for name, value in told.items() if not value.startswith("[")})

    def queue(self) -> Queue:
        return Queue.of(self.settings)

    @property
    def said(self) -> str:
        return "".join(line for part in (self.api, *self.workers) for line in part.log.lines)

    def add_worker(self, **given: str) -> Part:
        """Another stub worker, warm, with the settings given besides those of the service."""
        worker = Part.start(STUB_WORKER, self.env | given)
        self.workers.append(worker)
        worker.log.find("worker ready")
        return worker

    def wait_ready(self) -> None:
        give_up = time.monotonic() + STOP_S
        while not httpx.get(f"{self.url}/readyz", trust_env=False).is_success:
            assert time.monotonic() < give_up, "the API does not see its worker"
            time.sleep(0.05)


@contextmanager
def running_stub(state: Path, workers: int = 1, *, fsync: str = "always", **given: str) -> Iterator[StubService]:
    """A whole service with stub workers (tests/stub_worker.py), ready; when the block ends all of it is stopped.

    `given`: settings of all its processes, e.g. OMGSR_LEASE_S="2".
    """
    env = environment(state, state, **given)
    with EmbeddedServer(state, fsync=fsync) as server:
        service = StubService(server, Part.start([*OMGSR, "api"], env), env)
        try:
            service.workers = [Part.start(STUB_WORKER, env) for _ in range(workers)]
            for worker in service.workers:
                worker.log.find("worker ready")
            if workers:
                service.wait_ready()
            yield service
        except AssertionError:
            sys.stderr.write(service.said)
            raise
        finally:
            *_, code = [part.stop() for part in (*service.workers, service.api)]
        assert code in (0, -signal.SIGKILL), service.said
