"""The one place where an error becomes an HTTP answer: RFC 9457 problem+json."""

from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from service.errors import BadRequest, ServiceError
from service.job import Problem

CONTENT_TYPE = "application/problem+json"
_ADVICE = "GET /docs lists every path and its methods."


class ProblemResponse(JSONResponse):
    """A problem as it goes over the wire; what is for gRPC stays out."""

    media_type = CONTENT_TYPE

    def __init__(self, problem: Problem, headers: dict[str, str] | None = None) -> None:
        super().__init__(problem.model_dump(exclude={"grpc_code"}), problem.status, headers)


def install(app: FastAPI) -> None:
    """Every error that a handler raises is answered here; what is unexpected is `envelope`'s."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _client_left)


async def _service_error(_: Request, error: Exception) -> ProblemResponse:
    if not isinstance(error, ServiceError):
        raise error
    problem = error.problem()
    headers = {"Retry-After": "5"} if problem.status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return ProblemResponse(problem, headers)


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
