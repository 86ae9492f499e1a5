"""Listening sockets, and who holds the port when one cannot be had."""

import errno
import socket
import ssl

import psutil

from service.errors import ServiceError
from service.settings import Settings


class PortTaken(ServiceError):
    """Another program listens on the port."""

    title = "Port taken"


class TlsUnusable(ServiceError):
    """The certificate and its key cannot be used."""

    title = "TLS unusable"
    advice = "Set OMGSR_TLS_CERT and OMGSR_TLS_KEY to the PEM files of a certificate and of its key; both, or none."


def check_tls(settings: Settings) -> None:
    """Raise TlsUnusable unless there is a certificate with its key, or neither, and what clients' are judged by."""
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise TlsUnusable("Of the certificate and its key only one is given.")
    authority, advice = settings.tls_client_ca, "Let OMGSR_TLS_CLIENT_CA name a PEM file, beside the server's own."
    if settings.tls_cert is None:
        if authority is not None:
            raise TlsUnusable("Clients' certificates cannot be asked for without TLS.", advice)
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise TlsUnusable(f"{settings.tls_cert} with {settings.tls_key}: {error}.") from error
    try:
        context.load_verify_locations(authority) if authority else None
    except (OSError, ssl.SSLError) as error:
        raise TlsUnusable(f"{authority}: {error}.", advice) from error


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address; the port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, or asyncio leaves Nagle's algorithm on: answers would wait 40 ms for the client's acknowledgement.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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
            "Stop that program, or choose another port: OMGSR_PORT for REST, OMGSR_GRPC_PORT for gRPC, "
            "OMGSR_ADMIN_PORT for the admin listener.",
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
