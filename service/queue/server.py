"""How the queue's server is reached: alone, through Sentinels, or as a cluster; plain or over TLS; by which user.

One URL says all of it (`rediss` in place of `redis`: over TLS):

    redis://[USER[:PASSWORD]@]HOST[:6379][/DB]                              one server
    unix:///PATH                                                            one on this machine
    redis+sentinel://[USER[:PASSWORD]@]HOST[:26379],…/SERVICE[/DB]          the primary that the Sentinels name
    redis+cluster://[USER[:PASSWORD]@]HOST[:6379],…                         a cluster; all keys lie in one slot

Its query takes the connection options of redis-py, such as `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile`, and of our
own: `password_file`, read at each connection, so that a new password needs no restart; `sentinel_username` and
`sentinel_password_file` for Sentinels that ask for a user.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import AuthenticationError

from service.errors import Unavailable

CONNECTIONS = 64
WAITERS = 10_000
POOL_PATIENCE_S = 20.0
RETRIES = 6  # over 1.3 s on average: a blip, or the embedded server's restart
SENTINEL_S = 1.0  # then the next one is asked
SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "password_file", "sentinel_password_file")

Options = dict[str, Any]
"""What redis-py's connections and their pools take."""

_UNNAMED: Options = {"driver_info": None}  # else each connection begins with CLIENT SETINFO, a right that 7.0 has not


@dataclass(frozen=True)
class Clients:
    """Connections to the queue's server."""

    calls: Redis | RedisCluster
    waiters: Redis | RedisCluster
    """For reads that block: each keeps a connection, and so must not starve the calls."""
    sentinels: Sentinel | None = None

    async def close(self) -> None:
        """Close all of them."""
        for each in (self.calls, self.waiters, self.sentinels):
            if each is not None:
                await each.aclose()


def clients_of(url: str) -> Clients:
    """Clients that connect when they are first used. Raises Unavailable for a URL that cannot be used."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        raise _unusable(f"it must begin with one of {', '.join(f'{each}://' for each in SCHEMES)}.")
    transport, _, kind = scheme.partition("+")
    try:
        if kind == "sentinel":
            return _behind_sentinels(transport, urlsplit(f"//{rest}"))
        if kind == "cluster":
            return _cluster(transport, urlsplit(f"//{rest}"))
        return _one_server(_options(url))
    except ValueError:  # its words may quote the password
        raise _unusable("it is no address; what is special in a password must be percent-encoded.") from None


class PasswordFile(CredentialProvider):
    """A user whose password is in a file, as an orchestrator mounts its secrets."""

    def __init__(self, username: str, path: Path) -> None:
        self._username = username
        self._path = path

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """What the file says now. Raises AuthenticationError where it cannot be read."""
        try:
            password = self._path.read_text("utf-8").strip()
        except (OSError, ValueError) as error:  # redis-py lets its own errors through alone
            raise AuthenticationError(f"{self._path} cannot be read: {type(error).__name__}") from None
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The same: the file is small, and on this machine."""
        return self.get_credentials()


class _BoundedSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the primary of the moment; whoever finds all of them in use waits for one."""


def _one_server(options: Options) -> Clients:
    return Clients(
        Redis.from_pool(BlockingConnectionPool(**_bounded(options))),
        Redis.from_pool(ConnectionPool(**_unbounded(options))),
    )


def _behind_sentinels(transport: str, parts: SplitResult) -> Clients:
    service, _, db = unquote(parts.path).strip("/").partition("/")
    if not service:
        raise _unusable("it names no service of the Sentinels: redis+sentinel://HOST:26379,…/SERVICE.")
    options = _options_of_many(transport, parts, db)
    asking = {name: value for name, value in options.items() if name.startswith("ssl")}
    user, password_file = options.pop("sentinel_username", ""), options.pop("sentinel_password_file", "")
    if password_file:
        asking["credential_provider"] = PasswordFile(user, Path(password_file))
    asking |= {"socket_timeout": SENTINEL_S, "socket_connect_timeout": SENTINEL_S, "retry": Retry(NoBackoff(), 0)}
    # redis-py has no types here.
    sentinels = Sentinel(_hosts(parts, 26379), sentinel_kwargs=asking | _UNNAMED)  # type: ignore[no-untyped-call]
    calls = _BoundedSentinelPool(service, sentinels, **_bounded(options))  # type: ignore[no-untyped-call]
    waiters = SentinelConnectionPool(service, sentinels, **_unbounded(options))  # type: ignore[no-untyped-call]
    return Clients(Redis.from_pool(calls), Redis.from_pool(waiters), sentinels)


def _cluster(transport: str, parts: SplitResult) -> Clients:
    if parts.path.strip("/") not in ("", "0"):
        raise _unusable("a cluster has no database but 0.")
    nodes = [ClusterNode(host, port) for host, port in _hosts(parts, 6379)]
    # This client has no pool in which a call could wait for a connection, and so none that could starve.
    cluster = RedisCluster(startup_nodes=nodes, **_unbounded(_options_of_many(transport, parts, "")))
    return Clients(cluster, cluster)


def _bounded(options: Options) -> Options:
    return {"max_connections": CONNECTIONS, "timeout": POOL_PATIENCE_S, **_common(), **options}


def _unbounded(options: Options) -> Options:
    return {"max_connections": WAITERS, **_common(), **options}


def _common() -> Options:
    retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=1), RETRIES)  # a pool's connections have none
    return {"decode_responses": True, "retry": retry, **_UNNAMED}


def _options(url: str) -> Options:
    """What the URL of one server says. Raises ValueError, and Unavailable where a file is missing."""
    options: Options = {**parse_url(url)}
    for name in FILES:
        if name in options and not Path(options[name]).is_file():
            raise _unusable(f"there is no file {options[name]} ({name}).")
    if "password_file" in options:
        options.pop("password", None)
        path = Path(options.pop("password_file"))
        options["credential_provider"] = PasswordFile(options.pop("username", ""), path)
    return options


def _options_of_many(transport: str, parts: SplitResult, db: str) -> Options:
    """The same of a URL with several hosts, without them."""
    user, at, hosts = parts.netloc.rpartition("@")
    options = _options(f"{transport}://{user}{at}{hosts.split(',')[0]}/{db}?{parts.query}")
    return {name: value for name, value in options.items() if name not in ("host", "port", "connection_class")} | {
        "ssl": options.get("connection_class") is SSLConnection
    }


def _hosts(parts: SplitResult, port: int) -> list[tuple[str, int]]:
    each = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
    return [(host.hostname or "localhost", host.port or port) for host in each]


def _unusable(why: str) -> Unavailable:
    return Unavailable(
        f"REDIS_URL cannot be used: {why}", "Mend it; docs/kubernetes.md shows the address of each kind of server."
    )
