"""The page at `/`: plain files, read once, answered with what lets a browser keep them and nothing else run there."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

router = APIRouter(include_in_schema=False)

FOLDER = Path(__file__).parent / "page"

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)


@dataclass(frozen=True)
class _File:
    body: bytes
    kind: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> Self:
        body = path.read_bytes()
        return cls(body, _TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')

    def answer(self, request: Request) -> Response:
        # Kept, but asked for each time: the modules name each other without versions, so no old one may stay.
        headers = {"ETag": self.etag, "Cache-Control": "no-cache", "Content-Security-Policy": _POLICY}
        known = request.headers.get("if-none-match", "").replace("W/", "").split(",")
        if self.etag in (tag.strip() for tag in known):
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers=headers, media_type=self.kind)


_FILES = {path.name: _File.read(path) for path in FOLDER.iterdir() if path.suffix in _TYPES}


@router.api_route("/", methods=["GET", "HEAD"])
async def home(request: Request) -> Response:
    """The page itself."""
    return _FILES["index.html"].answer(request)


@router.api_route("/page/{name}", methods=["GET", "HEAD"])
async def part(request: Request, name: str) -> Response:
    """A script, the style or the icon."""
    if name not in _FILES:
        raise HTTPException(404)
    return _FILES[name].answer(request)
