"""What REST handlers ask for by their parameters' types: the admission, and who calls."""

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from service.api.auth import Caller, Keys
from service.api.body import discard
from service.api.submit import Admission
from service.errors import Unauthenticated
from service.telemetry import rejections_counted

_bearer = HTTPBearer(
    scheme_name="API key", auto_error=False, description="`Authorization: Bearer KEY`, where the server has keys."
)
_header = APIKeyHeader(
    name="X-API-Key", scheme_name="API key header", auto_error=False, description="The same key in a header of its own."
)


def _admission(request: Request) -> Admission:
    admission: Admission = request.app.state.admission
    return admission


Admitting = Annotated[Admission, Depends(_admission)]


async def _caller(
    request: Request,
    admission: Admitting,
    _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],  # documented by it, judged by Keys
    key: Annotated[str | None, Security(_header)],
) -> Caller:
    keys: Keys = request.app.state.keys
    authorization = request.headers.get("authorization") or (f"Bearer {key}" if key else "")
    try:
        with rejections_counted():
            return keys.caller(authorization, request.client.host if request.client else "unknown")
    except Unauthenticated:
        await discard(request, admission.settings.max_upload_bytes)
        raise


Calling = Annotated[Caller, Depends(_caller)]
