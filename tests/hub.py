"""A small hub on a real socket: repositories in folders, in the shapes that `huggingface_hub` expects.

Large files (safetensors) are answered with a redirect to another host, as the public hub does.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from model.sums import git_sha1, sha256

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Asked:
    """A request that came."""

    path: str
    range: str | None
    token: str | None


@dataclass
class TinyHub:
    """Repositories, and the troubles that a test makes."""

    root: Path
    """`root`/OWNER/NAME/… are repositories; other files lie beside them."""
    port: int = 0
    gated: set[str] = field(default_factory=set)
    card: dict[str, str] = field(default_factory=lambda: {"license": "other", "license_name": "tiny-licence"})
    cut_after: int | None = None
    """The next large file breaks off after so many bytes; from then on the hub is down until `down` is set to False."""
    down: bool = False
    corrupt: bool = False
    """Large files come with one byte changed."""
    asked: list[Asked] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ranges(self) -> list[str]:
        return [one.range for one in self.asked if one.range]

    def fetched(self) -> list[str]:
        """The names of all files that were asked for, by repository path."""
        return [one.path.partition(f"/resolve/{COMMIT}/")[2] for one in self.asked if "/resolve/" in one.path]


class _Answers(BaseHTTPRequestHandler):
    hub: TinyHub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(Asked(path, self.headers.get("Range"), self.headers.get("Authorization")))
        if self.hub.down:
            self._say(503, b"")
        elif path.startswith("/api/models/"):
            self._tell(path.removeprefix("/api/models/"))
        elif "/resolve/" in path:
            self._resolve(path)
        else:
            self._send(self.hub.root / path.removeprefix("/cdn").lstrip("/"))

    def _tell(self, asked: str) -> None:
        name, _, _revision = asked.partition("/revision/")
        folder = self.hub.root / name
        if not folder.is_dir():
            self._say(401, b"", {"X-Error-Code": "RepoNotFound"})
            return
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        siblings = [{"rfilename": path.relative_to(folder).as_posix(), **_facts(path)} for path in files]
        told = {"id": name, "sha": COMMIT, "siblings": siblings, "cardData": self.hub.card}
        self._say(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

    def _resolve(self, path: str) -> None:
        name, _, rest = path.lstrip("/").partition("/resolve/")
        file = self.hub.root / name / rest.partition("/")[2]
        if name in self.hub.gated and not self.headers.get("Authorization"):
            self._say(401, b"", {"X-Error-Code": "GatedRepo"})
        elif name in self.hub.gated and self.headers.get("Authorization") != "Bearer accepted":
            self._say(403, b"", {"X-Error-Code": "GatedRepo"})
        elif file.suffix == ".safetensors":
            place = f"http://localhost:{self.hub.port}/cdn/{file.relative_to(self.hub.root)}"
            self._say(302, b"", {"Location": place, "X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{sha256(file)}"'})
        else:
            self._send(file)

    def _send(self, file: Path) -> None:
        if not file.is_file():
            self._say(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = bytearray(file.read_bytes())
        if self.hub.corrupt and file.suffix == ".safetensors":
            data[-1] ^= 1
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self._say(206 if start else 200, bytes(data[start:]), headers | {"ETag": f'"{sha256(file)}"'})

    def _say(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        cut = self.hub.cut_after
        if cut is not None and len(body) > cut:
            body, self.hub.cut_after, self.hub.down = body[:cut], None, True
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 — the base class calls it so
        """Not on stderr: `asked` has it."""


def _facts(path: Path) -> dict[str, object]:
    size = path.stat().st_size
    told: dict[str, object] = {"size": size, "blobId": git_sha1(path)}
    if path.suffix in {".safetensors", ".bin", ".ckpt"}:
        told["blobId"] = hashlib.sha1(b"pointer", usedforsecurity=False).hexdigest()
        told["lfs"] = {"size": size, "sha256": sha256(path), "pointerSize": 130}
    return told


@contextmanager
def tiny_hub(root: Path) -> Iterator[TinyHub]:
    """A running hub of the repositories in `root`."""
    hub = TinyHub(root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    hub.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
