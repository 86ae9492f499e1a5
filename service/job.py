"""All that crosses Redis: small frozen messages, JSON on the wire, one version number.

Processes of several releases share one queue while a service is upgraded (docs/operations.md, Upgrading). Whoever
reads leaves out what it does not know; what must not be left out raises the job's format. A worker of an older release
is never offered such a job: it waits in a line of its own (`lines`).
"""

from enum import StrEnum
from functools import reduce
from json import loads
from operator import getitem
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

JobFormat = Literal[1]
FORMATS: tuple[int, ...] = get_args(JobFormat)
"""Of jobs, as this release knows them. A job is written in the oldest one that says all of it."""

ColorFix = Literal["adain", "wavelet", "none"]
OutputFormat = Literal["png", "jpeg", "webp", "avif"]
SUFFIXES: dict[OutputFormat, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "avif": ".avif"}
"""Of a result's file name."""
Metadata = Literal["keep", "strip"]
BitDepth = Annotated[Literal[8, 16], BeforeValidator(lambda given: {"8": 8, "16": 16}.get(given, given))]
"""Options come as texts too."""

DEVICE_STAGES = ("encode", "predict", "decode")
"""The stages of `Result.seconds` that are the device's own time."""


def lines(variant: str) -> list[str]:
    """Where the jobs of a variant wait that this release can do; queue/accept.lua puts them there."""
    return [variant if number == 1 else f"{variant}@{number}" for number in FORMATS]


class Message(BaseModel):
    """Frozen. An unknown field is a mistake when it is made here, and a newer release's word when it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def read(cls, text: str) -> Self:
        """The message as some release wrote it. Raises ValidationError where this one must not go on with it."""
        return cls.model_validate_json(text, extra="ignore")


class JobState(StrEnum):
    """A job is in exactly one; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing can change the job any more."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class Problem(Message):
    """An RFC 9457 problem: what went wrong and what to do about it."""

    type: str = Field(examples=["urn:omgsr:problem:too-many-pixels"])
    title: str
    status: int = Field(description="HTTP status")
    grpc_code: str = Field(description="name of the gRPC status code")
    detail: str
    advice: str = Field(description="what to do about it")
    retry_after_s: int | None = Field(None, description="seconds after which the same request is likely to be taken")


class UpscaleOptions(Message):
    """What a client may ask for."""

    model: str = Field("", description="variant; empty: the server's default", max_length=100)
    scale: float = Field(4.0, ge=1, le=8, description="the result is exactly round(scale × size)")
    strength: float = Field(
        1.0, ge=0, le=1.2, description="z = z_L + strength·(z_P − z_L); less is closer to the input"
    )
    color_fix: ColorFix | None = Field(None, description="empty: the variant's own default")
    format: OutputFormat = "png"
    quality: int = Field(95, ge=1, le=100, description="of JPEG, WebP and AVIF")
    depth: BitDepth = Field(8, description="bits per sample of the result; 16 needs format=png")
    metadata: Metadata = Field("keep", description="EXIF of the photo: keep, or strip; its colour profile always stays")
    priority: int = Field(0, ge=-10, le=10, description="higher goes first")
    deadline_s: float | None = Field(
        None, gt=0, le=86_400, description="seconds from now after which the result is wanted no more"
    )

    @model_validator(mode="after")
    def _deep_enough(self) -> Self:
        if self.depth == 16 and self.format != "png":
            raise ValueError("depth: 16 bits per sample need format=png")
        return self


class Job(Message):
    """One photo to upscale: written once by the API, read by workers. Image bytes are in the blob store."""

    version: JobFormat = 1
    id: str
    options: UpscaleOptions
    width: int = Field(description="pixels, EXIF orientation applied")
    height: int = Field(description="pixels, EXIF orientation applied")
    input_key: str = Field(description="blob key of the file as uploaded")
    filename: str = Field("", description="the client's name for the file, without folders")
    cost: float = Field(1.0, gt=0, description="megapixels that the device will work on, of all stages")
    client: str = Field("anonymous", description="name of the API key, or the peer's address where there are no keys")
    weight: float = Field(1.0, gt=0, description="the client's share of a busy service, against other clients'")
    idempotency_key: str = Field("", description="the client's own name for this job; a second submit joins the first")
    digest: str = Field("", description="SHA-256 of the file and the options, where there is a key: what may share it")
    bytes: int = Field(0, ge=0, description="of the file as uploaded")
    attended: bool = Field(False, description="dropped when nobody has asked for it for a while (`Queue.attend`)")
    request_id: str = ""
    traceparent: str = Field("", description="W3C trace context of the request")

    @classmethod
    def seen(cls, text: str) -> Self:
        """The job as far as this release can read it, the rest at its defaults: to be shown, not to be worked on."""
        told = loads(text)
        try:
            return cls.model_validate(told, extra="ignore")
        except ValidationError as error:
            for *path, name in (each["loc"] for each in error.errors()):
                reduce(getitem, path, told).pop(name, None)
        return cls.model_validate(told, extra="ignore")


class Result(Message):
    """Where the upscaled image lies and what it is."""

    key: str = Field(description="blob key")
    mime_type: str
    width: int
    height: int
    bytes: int
    seconds: dict[str, float] = Field(default_factory=dict, description="worker seconds by stage")


class JobStatus(Message):
    """A job as it stands. Times are Unix seconds on Redis's clock."""

    job: Job
    readable: bool = Field(True, description="False: a newer release wrote it, and `job` is what this one knows of it")
    state: JobState
    position: int | None = Field(None, description="0 is next; only while queued")
    attempt: int = 0
    worker: str = Field("", description="the last one that took it: HOST-PID-…")
    tiles_done: int = 0
    tiles_total: int = 0
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    eta_s: float | None = Field(None, description="seconds to the end by the learned cost; None: not known, or ended")
    result: Result | None = None
    error: Problem | None = None


class Receipt(Message):
    """What came of a submit."""

    job_id: str = Field(description="the job's, or that of the job it joined by its idempotency key")
    position: int = Field(description="0 is next")
    joined: bool = Field(False, description="the key was known: nothing new was put in line")


class Event(Message):
    """One line of a job's history: `queued`, `progress`, then one of the final states."""

    id: str = Field(description="position in the stream; resume after it")
    kind: str
    tiles_done: int = 0
    tiles_total: int = 0

    @property
    def final(self) -> bool:
        """Whether it is the job's last line."""
        return self.kind in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Leased(Message):
    """A job in a worker's hands. Only this attempt may finish it (the fence)."""

    job: Job
    attempt: int
    waited_s: float = Field(description="seconds from submit to lease, on Redis's clock")
    suspect: bool = Field(False, description="an earlier delivery failed: it may be what killed the worker")


class VariantInfo(Message):
    """What a worker tells about a variant that it serves."""

    name: str
    family: str
    base: str
    mid_timestep: int
    native_size: int
    process_size: int = Field(description="pixels: the short side is worked on at no less")
    license: str
    color_fix: ColorFix
    seconds_per_megapixel: float | None = Field(None, description="of device time, as measured of late")
