"""The one place where an error becomes an HTTP answer: RFC 9457 problem+json."""

from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from service.api.views import ProblemView
from service.errors import BadRequest, ServiceError
from service.job import Problem

CONTENT_TYPE = "application/problem+json"
UNAVAILABLE_S = 5
"""When to come back to a service that is away, where nothing better is known."""
_ADVICE = "GET /docs lists every path and its methods."


class ProblemResponse(JSONResponse):
    """A problem as it goes over the wire, with the headers that belong to its status."""

    media_type = CONTENT_TYPE

    def __init__(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        body = ProblemView.of(problem).model_dump(exclude_none=True)
        super().__init__(body, problem.status, {**_headers(problem), **(headers or {})})


def _headers(problem: Problem) -> dict[str, str]:
    if problem.status == HTTPStatus.UNAUTHORIZED:
        return {"WWW-Authenticate": "Bearer"}
    wait_s = problem.retry_after_s or (UNAVAILABLE_S if problem.status == HTTPStatus.SERVICE_UNAVAILABLE else 0)
    return {"Retry-After": str(wait_s)} if wait_s else {}


def install(app: FastAPI) -> None:
    """Every error that a handler raises is answered here; what is unexpected is `envelope`'s."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _client_left)


async def _service_error(_: Request, error: Exception) -> ProblemResponse:
    if not isinstance(error, ServiceError):
        raise error
    return ProblemResponse(error.problem())


async def _http_error(request: Request, error: Exception) -> ProblemResponse:
    """404 and 405 of the router."""
    if not isinstance(error, HTTPException):
        raise error
    status = HTTPStatus(error.status_code)
    problem = Problem(
        type="about:blank",
        title=status.phrase,
        status=status,
        grpc_code="NOT_FOUND" if status == HTTPStatus.NOT_FOUND else "INVALID_ARGUMENT",
        detail=f"{request.method} {request.url.path}: {status.description or status.phrase}.",
        advice=_ADVICE,
    )
    return ProblemResponse(problem, dict(error.headers or {}))


async def _invalid(_: Request, error: Exception) -> ProblemResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    said = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
    return ProblemResponse(BadRequest("; ".join(said) + ".").problem())


async def _client_left(_: Request, __: Exception) -> ProblemResponse:
    """Nobody reads this answer; it makes the log and the metrics true."""
    return ProblemResponse(BadRequest("The client closed the connection before the request was whole.").problem())
