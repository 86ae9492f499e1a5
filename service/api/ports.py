"""Listening sockets, and who holds the port when one cannot be had."""

import errno
import socket

import psutil

from service.errors import ServiceError


class PortTaken(ServiceError):
    """Another program listens on the port."""

    title = "Port taken"


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; the port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise PortTaken(
            f"port {port} on {host} is taken by {holder(port)}",
            "Stop that program, or choose another port: OMGSR_PORT for REST, OMGSR_GRPC_PORT for gRPC.",
        ) from error
    return sock


def holder(port: int) -> str:
    """Name and id of the process that listens on the port, as far as this user may see it."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                process = psutil.Process(connection.pid)
                return f"{' '.join(process.cmdline()[:4]) or process.name()} (process {connection.pid})"
    except (psutil.Error, OSError):
        pass
    return "another program"
