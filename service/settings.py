"""Every setting of the service, read from the environment: `OMGSR_…`, and plain `REDIS_URL`."""

from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

BUNDLED_MODELS = Path(__file__).parent.parent / "model" / "weights"


class Settings(BaseSettings):
    """One object for API, worker and supervisor; each reads what it needs."""

    model_config = SettingsConfigDict(env_prefix="OMGSR_", frozen=True)

    host: str = Field("127.0.0.1", description="address that REST and gRPC listen on")
    port: int = Field(8000, description="REST port; 0 picks a free one")
    grpc_port: int = Field(50051, description="gRPC port; 0 picks a free one")
    admin_host: str = Field("127.0.0.1", description="address of the API's admin listener")
    admin_port: int | None = Field(
        None, description="the API's admin listener: /metrics, dead letters; 0 picks a free one, empty: none"
    )
    worker_port: int | None = Field(
        None, description="a worker's own listener on admin_host: /livez, /readyz, /metrics; 0 picks one, empty: none"
    )
    tls_cert: Path | None = Field(None, description="PEM certificate chain; with tls_key REST and gRPC speak TLS")
    tls_key: Path | None = Field(None, description="PEM key of tls_cert")
    tls_client_ca: Path | None = Field(None, description="PEM; gRPC clients must show a certificate of it (mTLS)")
    cors_origins: list[str] = Field([], description="origins whose pages may call REST from a browser; none by default")
    api_keys: Path | None = Field(None, description="file of hashed API keys (`omgsr keys`); empty: none is asked for")

    state_dir: Path = Field(Path("var"), description="embedded server's socket and data, blobs")
    redis_url: str | None = Field(
        None,
        description="one server, Sentinels or a cluster (service/queue/server.py); empty: a server of its own",
        validation_alias=AliasChoices("REDIS_URL", "OMGSR_REDIS_URL", "redis_url"),
    )
    blob_url: str | None = Field(
        None, description="fsspec URL of the blob store, s3://BUCKET/PREFIX; empty: a folder in the state folder"
    )
    namespace: str = Field("omgsr", description="prefix of every Redis key")

    models: list[Path] = Field([BUNDLED_MODELS], description="variant folders, or folders that hold some")
    default_model: str = Field("", description="served when a request names none; empty: the first one loaded")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    threads: int = Field(0, ge=0, description="CPU threads of the device thread; 0: torch's choice")
    backend: Literal["auto", "eager", "openvino", "inductor"] = Field(
        "auto", description="what runs the networks; auto: what is fastest here, by measurement at start"
    )
    max_batch: int = Field(4, ge=1, le=8, description="largest number of ops in one batch")
    max_wait_ms: float = Field(20.0, ge=0, description="how long a ready op waits for others to fill its batch")
    max_device_bytes: int = Field(0, ge=0, description="device memory for models and work; 0: what is free at start")
    watchdog_s: float = Field(120.0, gt=0, description="one batch that takes longer makes the worker unhealthy")
    max_batch_pixels: int = Field(
        4_194_304, ge=1, description="largest sum of pixels in one batch of Encode or Decode; one op always runs"
    )

    max_upload_bytes: int = Field(32 * 2**20, ge=1024)
    max_uploads_in_flight: int = Field(16, ge=1, description="files that one API process holds in memory at once")
    slow_upload_s: float = Field(30.0, gt=0, description="an upload that takes longer must bring 16 KiB a second")
    max_input_pixels: int = Field(16_000_000, ge=1)
    max_output_pixels: int = Field(16_777_216, ge=1, description="the mini takes about 800 bytes of memory for each")

    lease_s: float = Field(15.0, gt=0, description="a worker that is silent for so long loses its jobs")
    max_attempts: int = Field(3, ge=1, description="deliveries before a job is failed and becomes a dead letter")
    max_waiting: int = Field(5000, ge=1, description="jobs in line; more are refused with 429")
    max_client_waiting: int = Field(2000, ge=1, description="jobs of one client in line")
    max_stored_bytes: int = Field(20 * 2**30, ge=1, description="files and results kept at once")
    attend_s: float = Field(30.0, gt=0, description="a job whose asker's API process is silent for so long is dropped")
    dead_ttl_s: float = Field(7 * 86_400.0, gt=0, description="how long dead letters and their files are kept")
    result_ttl_s: float = Field(3600.0, gt=0, description="how long finished jobs and their files are kept")
    drain_s: float = Field(30.0, ge=0, description="how long a stop waits for running work")
    notice_s: float = Field(
        1.0, ge=0, description="how long a stopping API still takes requests, with /readyz at 503, before it drains"
    )
    log_level: str = "INFO"

    @cached_property
    def blobs(self) -> str:
        """The blob store's fsspec URL, or a plain path: fsspec takes no percent-encoded one."""
        return self.blob_url or str(self.state_dir.resolve() / "blobs")
