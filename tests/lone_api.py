"""A real API process on a real queue without any worker: the test itself takes the jobs, so nothing happens unasked."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from service.job import VariantInfo
from service.queue.blobs import BlobStore
from service.queue.embedded import EmbeddedServer
from service.queue.queue import Queue
from service.settings import Settings

VARIANT = VariantInfo(
    name="hand-made", family="sd", base="none", mid_timestep=195, native_size=64, license="MIT", color_fix="adain"
)
SERVE = "from service.api.app import serve; from service.settings import Settings; serve(Settings())"


@dataclass
class LoneApi:
    """Where it answers, and its parts."""

    url: str
    grpc: str
    process: psutil.Process
    settings: Settings
    server: EmbeddedServer
    blobs: BlobStore
    log: list[str] = field(repr=False)

    def queue(self) -> Queue:
        return Queue.of(self.settings)


def start(state: Path, **environment: str) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OMGSR_") and k != "REDIS_URL"}
    given = {"OMGSR_STATE_DIR": str(state), "OMGSR_PORT": "0", "OMGSR_GRPC_PORT": "0", "OMGSR_DRAIN_S": "2"}
    return subprocess.Popen(
        [sys.executable, "-c", SERVE], env=kept | given | environment, stderr=subprocess.PIPE, text=True
    )


@contextmanager
def lone_api(state: Path, **environment: str) -> Iterator[LoneApi]:
    with EmbeddedServer(state) as server:
        process = start(state, **environment)
        assert process.stderr is not None
        log: list[str] = []
        for line in process.stderr:
            log.append(line)
            if '"listening"' in line:
                break
        else:
            raise AssertionError("the API did not start:\n" + "".join(log))
        ports = json.loads(log[-1])
        rest = threading.Thread(target=lambda: log.extend(process.stderr), daemon=True)
        rest.start()
        settings = Settings(state_dir=state)
        try:
            yield LoneApi(
                url=f"http://127.0.0.1:{ports['rest_port']}",
                grpc=f"127.0.0.1:{ports['grpc_port']}",
                process=psutil.Process(process.pid),
                settings=settings,
                server=server,
                blobs=BlobStore(settings.blobs),
                log=log,
            )
        finally:
            process.terminate()
            code = process.wait(20)
            rest.join()
            process.stderr.close()
            assert code == 0, "".join(log)
