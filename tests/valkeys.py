"""Servers of the other kinds that a queue may stand on: with users, behind a Sentinel, in a cluster."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from redis import Redis
from redis.exceptions import RedisError

from service.queue.embedded import find_server

COMES_S = 20.0


@dataclass
class Server:
    port: int
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def client(self, user: str | None = None) -> Redis:
        """Its operator's, who has no password."""
        return Redis(port=self.port, username=user, password=user, decode_responses=True)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in socks]


@contextmanager
def running_server(*lines: str, mode: str = "") -> Iterator[Server]:
    """A server with these lines as its configuration."""
    [port] = free_ports(1)
    with TemporaryDirectory(prefix="omgsr-") as folder:
        config = Path(folder) / "server.conf"  # a Sentinel writes into it what it learns
        config.write_text("\n".join((f"port {port}", "bind 127.0.0.1", f"dir {folder}", 'save ""', *lines)))
        command = [str(find_server()), str(config), *([mode] if mode else [])]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        server = Server(port, process)
        try:
            comes(lambda: _answers(server))
            yield server
        finally:
            process.kill()
            process.wait()


@contextmanager
def running_sentinel(service: str, primary: Server) -> Iterator[Server]:
    """One Sentinel that decides alone, and knows a replica of the primary."""
    lines = (
        f"sentinel monitor {service} 127.0.0.1 {primary.port} 1",
        f"sentinel down-after-milliseconds {service} 300",
        f"sentinel failover-timeout {service} 3000",
    )
    with running_server(*lines, mode="--sentinel") as server, server.client() as client:
        comes(lambda: client.sentinel_slaves(service))
        yield server


@contextmanager
def running_cluster() -> Iterator[list[Server]]:
    """Two nodes with half of the slots each."""
    with ExitStack() as stack:
        nodes = []
        for bus in free_ports(2):
            lines = "cluster-enabled yes", f"cluster-port {bus}", "cluster-announce-ip 127.0.0.1"
            nodes.append((stack.enter_context(running_server(*lines)), bus))
        clients = [stack.enter_context(node.client()) for node, _ in nodes]
        clients[0].execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        clients[1].execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[1][0].port, nodes[1][1])
        comes(lambda: all("cluster_state:ok" in client.execute_command("CLUSTER", "INFO") for client in clients))
        yield [node for node, _ in nodes]


def comes(happened) -> None:
    """Return when it has happened."""
    give_up = time.monotonic() + COMES_S
    while not happened():
        assert time.monotonic() < give_up, "it does not come"
        time.sleep(0.02)


def _answers(server: Server) -> bool:
    assert server.process.poll() is None, "the server has ended"
    try:
        with Redis(port=server.port, retry=None) as client:
            client.ping()
    except RedisError as error:
        return "auth" in str(error).lower() or "permission" in str(error).lower()
    return True
