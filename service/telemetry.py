"""What an operator sees: Prometheus metrics and JSON logs."""

import logging
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from service.errors import ServiceError
from service.job import JobStatus
from service.version import release

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

# Label values are bounded: `model` is a served variant or empty, never a client's word.
REQUEST_DURATION = Histogram(
    "omgsr_request_duration_seconds",
    "From the first byte of a request to the last of its answer (gRPC: of one image).",
    ("transport", "model", "code"),
    buckets=_SECONDS,
)
QUEUE_WAIT = Histogram("omgsr_queue_wait_seconds", "From submit to lease.", ("model",), buckets=_SECONDS)
STAGE_DURATION = Histogram(
    "omgsr_stage_duration_seconds", "Worker's time on one image by stage.", ("model", "stage"), buckets=_SECONDS
)
IMAGES = Counter("omgsr_images", "Jobs that reached a final state.", ("model", "state"))
OUTPUT_MEGAPIXELS = Counter("omgsr_output_megapixels", "Megapixels delivered.", ("model",))
REJECTED = Counter("omgsr_rejected", "Requests refused before they became a job.", ("reason",))
QUEUE_DEPTH = Gauge("omgsr_queue_depth", "Jobs that wait.", ("model",))
QUEUE_BACKLOG = Gauge("omgsr_queue_backlog_seconds", "Device time that the waiting jobs will take.", ("model",))
QUEUE_AGE = Gauge("omgsr_queue_age_seconds", "Since the oldest waiting job was submitted; 0: none waits.", ("model",))
QUEUE_UP = Gauge("omgsr_queue_up", "1 while the queue's server answers this process.")
QUEUE_MEMORY = Gauge("omgsr_queue_memory_bytes", "Memory that the queue's server uses; NaN: it does not tell.")
QUEUE_MEMORY_LIMIT = Gauge("omgsr_queue_memory_limit_bytes", "What it may use (maxmemory); 0: it has no bound.")
WORKERS_ALIVE = Gauge("omgsr_workers_alive", "Workers with a fresh heartbeat.")
STORED_BYTES = Gauge("omgsr_stored_bytes", "Files and results that are kept.")
STORED_LIMIT = Gauge("omgsr_stored_limit_bytes", "What may be kept (OMGSR_MAX_STORED_BYTES).")
DEAD_LETTERS = Gauge("omgsr_dead_letters_kept", "Jobs that were given up, and can be looked at and replayed.")
BUILD = Info("omgsr_build", "The release that runs.")
BUILD.info({"version": release()})

# A worker's own, in a registry of its own: what one process knows nothing of, it does not tell as zero.
WORKER_METRICS = CollectorRegistry()
ProcessCollector(registry=WORKER_METRICS)
WORKER_METRICS.register(STAGE_DURATION)
WORKER_METRICS.register(BUILD)
BATCH_SIZE = Histogram(
    "omgsr_batch_size", "Ops in one batch.", ("model", "stage"), buckets=(1, 2, 4, 8), registry=WORKER_METRICS
)
BATCH_FILL = Histogram(
    "omgsr_batch_fill_ratio",
    "Ops in one batch, over the largest number allowed (OMGSR_MAX_BATCH).",
    ("model", "stage"),
    buckets=(0.125, 0.25, 0.5, 0.75, 1),
    registry=WORKER_METRICS,
)
BATCH_WAIT = Histogram(
    "omgsr_batch_wait_seconds",
    "From when an op waits for nothing but its turn to the start of its batch.",
    ("model", "stage"),
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
    registry=WORKER_METRICS,
)
BATCH_DURATION = Histogram(
    "omgsr_batch_duration_seconds",
    "Device time of one batch.",
    ("model", "stage"),
    buckets=_SECONDS,
    registry=WORKER_METRICS,
)
TILES = Histogram(
    "omgsr_tiles_per_request",
    "Tiles of one image.",
    ("model",),
    buckets=(1, 2, 4, 9, 16, 25, 36, 64, 121, 256),
    registry=WORKER_METRICS,
)
DEVICE_MEMORY = Gauge(
    "omgsr_device_memory_bytes",
    "budget: what images may use; models: their weights, beside it; images: what those under way hold of the budget.",
    ("kind",),
    registry=WORKER_METRICS,
)
RETRIES = Counter("omgsr_retries", "Attempts that failed and went back in line.", registry=WORKER_METRICS)
DEAD = Counter("omgsr_dead_letters", "Jobs given up, to be looked at and replayed.", registry=WORKER_METRICS)
WORKER_READY = Gauge(
    "omgsr_worker_ready", "1 while this worker is warm, healthy and takes jobs.", registry=WORKER_METRICS
)

# Without local variables: they hold what clients sent, and passwords.
_tracebacks = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=20)
)

WAIT_STAGE = "queue_wait"


@contextmanager
def rejections_counted() -> Iterator[None]:
    """Count, by its slug, the error that refuses a request."""
    try:
        yield
    except ServiceError as error:
        REJECTED.labels(error.slug).inc()
        raise


def record_finished(status: JobStatus) -> None:
    """Count a job that reached its final state. Call it once a job."""
    model = status.job.options.model
    IMAGES.labels(model, status.state.value).inc()
    if status.started_at is not None:
        QUEUE_WAIT.labels(model).observe(max(0.0, status.started_at - status.created_at))
    if status.result is None:
        return
    OUTPUT_MEGAPIXELS.labels(model).inc(status.result.width * status.result.height / 1e6)
    record_stages(model, status.result.seconds)


def record_stages(model: str, seconds: Mapping[str, float]) -> None:
    """Note a worker's time on one image, by stage."""
    for stage, taken in seconds.items():
        if stage != WAIT_STAGE:
            STAGE_DURATION.labels(model, stage).observe(taken)


def record_queue(
    depth: Mapping[str, int],
    backlog_s: Mapping[str, float],
    age_s: Mapping[str, float],
    *,
    workers: int,
    stored_bytes: float,
    dead: float,
    memory_bytes: float,
    memory_limit_bytes: float,
) -> None:
    """Set the gauges from what the queue says now."""
    for by_model, values in ((QUEUE_DEPTH, depth), (QUEUE_BACKLOG, backlog_s), (QUEUE_AGE, age_s)):
        by_model.clear()
        for model, value in values.items():
            by_model.labels(model).set(value)
    QUEUE_UP.set(1)
    WORKERS_ALIVE.set(workers)
    STORED_BYTES.set(stored_bytes)
    DEAD_LETTERS.set(dead)
    QUEUE_MEMORY.set(memory_bytes)
    QUEUE_MEMORY_LIMIT.set(memory_limit_bytes)


def record_queue_away() -> None:
    """Set the gauges while the queue does not answer: what nobody knows is absent, zero or NaN."""
    record_queue(
        {}, {}, {}, workers=0, stored_bytes=math.nan, dead=math.nan, memory_bytes=math.nan, memory_limit_bytes=math.nan
    )
    QUEUE_UP.set(0)


def configure_logging(level: str) -> None:
    """One JSON object a line on stderr, from our loggers and the libraries' alike."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _tracebacks,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
