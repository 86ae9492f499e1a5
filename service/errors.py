"""Every error that a client can meet, as one tree.

    ServiceError
    ├── BadRequest            400 INVALID_ARGUMENT
    │   ├── WrongContentType  415
    │   ├── NotAnImage        415
    │   ├── Truncated         422
    │   ├── TooManyPixels     413
    │   ├── BadOption         422
    │   ├── UploadStalled     408
    │   ├── KeyReused         422
    │   └── UnknownModel      404 NOT_FOUND
    ├── Unauthenticated       401 UNAUTHENTICATED
    ├── TooManyBytes          413 INVALID_ARGUMENT
    ├── ResultTooLarge        413 OUT_OF_RANGE (gRPC alone)
    ├── TooManyRequests       429 RESOURCE_EXHAUSTED, with the seconds after which to retry
    │   ├── QueueFull
    │   ├── ShareFull
    │   ├── StorageFull
    │   └── RateExceeded
    ├── JobNotFound           404 NOT_FOUND
    ├── NotReady              409 FAILED_PRECONDITION
    ├── Cancelled             409 CANCELLED
    ├── DeadlinePassed        504 DEADLINE_EXCEEDED
    ├── ProcessingFailed      500 INTERNAL
    │   └── OutOfMemory
    └── Unavailable           503 UNAVAILABLE
        └── WorkersTooOld

One place per transport turns them into an answer: `api.problems` into RFC 9457 problem+json, `api.messages` into
a `google.rpc.Status`.
"""

from service.job import Problem


class ServiceError(Exception):
    """Base of all: `detail` says what is wrong with this request, `advice` what to do about it."""

    status = 500
    grpc_code = "INTERNAL"
    title = "Internal error"
    advice = "Retry; if it persists, give the operator this answer's X-Request-Id."

    def __init__(self, detail: str, advice: str | None = None, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        if advice is not None:
            self.advice = advice

    @property
    def slug(self) -> str:
        """The error's stable name in answers and metrics, e.g. `too-many-pixels`."""
        return "".join(f"-{c.lower()}" if c.isupper() else c for c in type(self).__name__).lstrip("-")

    def problem(self) -> Problem:
        """The same error as data: it crosses Redis and is the body of the answer."""
        return Problem(
            type=f"urn:omgsr:problem:{self.slug}",
            title=self.title,
            status=self.status,
            grpc_code=self.grpc_code,
            detail=self.detail,
            advice=self.advice,
            retry_after_s=self.retry_after_s,
        )


class BadRequest(ServiceError):
    """The request itself is wrong; sending it again cannot help."""

    status, grpc_code = 400, "INVALID_ARGUMENT"
    title = "Bad request"
    advice = "Correct the request; GET /docs describes every field."


class WrongContentType(BadRequest):
    """The body is of a kind that this path does not read."""

    status = 415
    title = "Wrong content type"
    advice = "Send multipart/form-data with the file in `image`, or the file's bytes with its type, e.g. image/png."


class NotAnImage(BadRequest):
    """The bytes are of no image format that is accepted."""

    status = 415
    title = "Not an image"
    advice = "Send a PNG, JPEG, WebP, AVIF, GIF, TIFF or BMP file."


class Truncated(BadRequest):
    """The file begins as an image but cannot be decoded to its end."""

    status = 422
    title = "Damaged image file"
    advice = "Open and save the image again, or check that the upload is complete."


class TooManyPixels(BadRequest):
    """The image, or the result asked for, has more pixels than this server allows."""

    status = 413
    title = "Too many pixels"
    advice = "Make the image smaller, or ask for a smaller scale."


class BadOption(BadRequest):
    """An option (scale, strength, format, …) is out of its range."""

    status = 422
    title = "Bad option"


class UploadStalled(BadRequest):
    """The upload comes too slowly to be waited for."""

    status = 408
    title = "Upload too slow"
    advice = "Send it again over a better connection, or send a smaller file."


class KeyReused(BadRequest):
    """The idempotency key belongs to another file or to other options."""

    status = 422
    title = "Idempotency key reused"
    advice = "Use a new key for a new request; repeat a request with the key only as it was."


class UnknownModel(BadRequest):
    """No worker serves a variant of that name."""

    status, grpc_code = 404, "NOT_FOUND"
    title = "Unknown model"
    advice = "GET /v1/models lists the models that are served."


class Unauthenticated(ServiceError):
    """The server wants an API key, and this is none that it knows."""

    status, grpc_code = 401, "UNAUTHENTICATED"
    title = "API key needed"
    advice = "Send a valid key: the header `Authorization: Bearer KEY`, in gRPC the metadata `authorization`."


class TooManyBytes(ServiceError):
    """The upload is larger than this server allows."""

    status, grpc_code = 413, "INVALID_ARGUMENT"
    title = "Upload too large"
    advice = "Send a smaller file, or compress it (JPEG, WebP)."


class ResultTooLarge(ServiceError):
    """The result does not fit into one message."""

    status, grpc_code = 413, "OUT_OF_RANGE"
    title = "Result too large for one message"
    advice = "Send the photo over the stream, or ask for format=jpeg or webp."


class TooManyRequests(ServiceError):
    """The service has as much to do, or to keep, as it will take."""

    status, grpc_code = 429, "RESOURCE_EXHAUSTED"
    title = "Too many requests"
    advice = "Retry after the seconds that the answer names (the header Retry-After)."


class QueueFull(TooManyRequests):
    """As many jobs wait as may wait."""

    title = "The queue is full"


class ShareFull(TooManyRequests):
    """As many of this client's jobs wait, or are under way, as one client may have."""

    title = "Too many jobs of one client"


class StorageFull(TooManyRequests):
    """Files and results fill the space that they may take."""

    title = "The store is full"


class RateExceeded(TooManyRequests):
    """The API key's requests per minute are used up."""

    title = "Too many requests of one key"


class JobNotFound(ServiceError):
    """No such job, or its result has passed its time to live."""

    status, grpc_code = 404, "NOT_FOUND"
    title = "No such job"
    advice = "Check the id; jobs and results are kept for a limited time only."


class NotReady(ServiceError):
    """The job has no result (yet)."""

    status, grpc_code = 409, "FAILED_PRECONDITION"
    title = "No result"
    advice = "GET the job and wait until its state is `succeeded`."


class Cancelled(ServiceError):
    """The job was cancelled before it had a result."""

    status, grpc_code = 409, "CANCELLED"
    title = "Cancelled"
    advice = "Send the photo again if it is still wanted."


class DeadlinePassed(ServiceError):
    """The job's deadline came before its result."""

    status, grpc_code = 504, "DEADLINE_EXCEEDED"
    title = "Deadline passed"
    advice = "Allow more time, or send the photo again when the service is less busy."


class ProcessingFailed(ServiceError):
    """The worker could not make the image."""

    title = "Processing failed"


class OutOfMemory(ProcessingFailed):
    """The device's memory is not enough for the image, though it was the only one in its batch."""

    title = "Out of device memory"
    advice = "Ask for a smaller scale, or send a smaller photo."


class Unavailable(ServiceError):
    """The service cannot take or finish the request now."""

    status, grpc_code = 503, "UNAVAILABLE"
    title = "Service unavailable"
    advice = "Retry after a short wait."


class WorkersTooOld(Unavailable):
    """The job needs a format that no worker knows: they are of an older release than this process."""

    title = "The workers are too old"
    advice = "Retry when the workers are upgraded, or leave out the option that is new."


class RequestFailed(ServiceError):
    """A problem that another process found, raised again in this one with everything it said."""

    def __init__(self, found: Problem) -> None:
        super().__init__(found.detail, found.advice, retry_after_s=found.retry_after_s)
        self.found = found

    def problem(self) -> Problem:
        """The problem exactly as it was found."""
        return self.found
