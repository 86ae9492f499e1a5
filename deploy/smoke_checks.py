"""What smoke.sh asks of the running service, as its clients do: in the worker's image, on the host's network."""

import argparse
import io
import sys
import time
from collections.abc import Iterable, Iterator

import grpc
import httpx
import numpy as np
from omgsr.v1 import upscale_pb2 as pb
from omgsr.v1.upscale_pb2_grpc import UpscaleServiceStub
from PIL import Image

from service.settings import BUNDLED_MODELS

SAMPLE = BUNDLED_MODELS / "sample.jpg"
PATIENCE_S = 240
LEVELS = 1
"""Of 255: what another backend's rounding may change."""
FINAL = ("succeeded", "failed", "cancelled")


def photo(width: int) -> bytes:
    """The sample enlarged, as a PNG: work for a while."""
    with Image.open(SAMPLE) as sample:
        enlarged = sample.resize((width, width * sample.height // sample.width))
    file = io.BytesIO()
    enlarged.save(file, "png")
    return file.getvalue()


def pixels(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def same(one: np.ndarray, other: np.ndarray) -> str:
    """How much two images differ; too much ends the program."""
    if one.shape != other.shape:
        sys.exit(f"sizes differ: {one.shape} and {other.shape}")
    differences = np.abs(one - other)
    said = f"largest difference {differences.max()} of 255, mean {differences.mean():.4f}"
    if differences.max() > LEVELS:
        sys.exit(said)
    return said


def rest(server: httpx.Client, _: argparse.Namespace) -> None:
    """A POST answers what the bare pipeline makes of the same photo."""
    from model import OMGSRPipeline  # torch: the other commands need none

    answer = server.post("/v1/upscale", files={"image": (SAMPLE.name, SAMPLE.read_bytes())}).raise_for_status()
    with Image.open(SAMPLE) as sample:
        (expected,) = OMGSRPipeline.from_variant(BUNDLED_MODELS / "omgsr-s-mini")([sample.convert("RGB")], scale=4)
    result = pixels(answer.content)
    print(f"{result.shape[1]} × {result.shape[0]} px, {same(result, np.asarray(expected, dtype=np.int16))}")


def stream(server: httpx.Client, given: argparse.Namespace) -> None:
    """Two photos on one gRPC stream come back as REST answers them, in pieces, with progress before."""
    expected = pixels(server.post("/v1/upscale", files={"image": SAMPLE.read_bytes()}).raise_for_status().content)
    kinds, files = [], dict.fromkeys(("one", "two"), b"")
    with grpc.insecure_channel(given.grpc) as channel:
        for answer in UpscaleServiceStub(channel).Upscale(requests(files), timeout=PATIENCE_S):
            kind = answer.WhichOneof("message")
            kinds.append(kind)
            if kind == "failed":
                sys.exit(f"failed: {answer.failed}")
            if kind == "chunk":
                files[answer.chunk.image_id] += answer.chunk.data
    if missing := {"accepted", "progress", "result_start", "chunk"} - set(kinds):
        sys.exit(f"no {', '.join(missing)} among {kinds}")
    for file in files.values():
        same(pixels(file), expected)
    print(f"{len(files)} images in {kinds.count('chunk')} pieces, {kinds.count('progress')} reports of progress")


def requests(names: Iterable[str]) -> Iterator[pb.UpscaleRequest]:
    data = SAMPLE.read_bytes()
    for name in names:
        yield pb.UpscaleRequest(start=pb.Start(image_id=name, total_bytes=len(data)))
        yield pb.UpscaleRequest(chunk=pb.Chunk(image_id=name, data=data, last=True))


def submit(server: httpx.Client, given: argparse.Namespace) -> None:
    """Put photos in line and print their jobs; with --running, once the first of them is being worked on."""
    data, jobs = photo(given.width), []
    for _ in range(given.count):
        answer = server.post("/v1/upscale", files={"image": data}, headers={"Prefer": "respond-async"})
        jobs.append(answer.raise_for_status().json()["id"])
    while given.running and (now := job(server, jobs[0])["state"]) != "running":
        if now in FINAL:
            sys.exit(f"the job is {now} already")
        time.sleep(0.02)
    print(*jobs)


def collect(server: httpx.Client, given: argparse.Namespace) -> None:
    """All jobs come to succeed, and each has its image."""
    give_up = time.monotonic() + PATIENCE_S
    for each in given.jobs:
        while (now := job(server, each)["state"]) not in FINAL:
            if time.monotonic() > give_up:
                sys.exit(f"job {each} is still {now}")
            time.sleep(0.2)
        if now != "succeeded":
            sys.exit(f"job {each} has {now}")
        size = pixels(server.get(f"/v1/jobs/{each}/result").raise_for_status().content).shape
        if size[1] != 4 * given.width:
            sys.exit(f"job {each} made an image of {size}")


def job(server: httpx.Client, job_id: str) -> dict[str, object]:
    """The job as it stands; a service that is away for a moment is asked again."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer = server.get(f"/v1/jobs/{job_id}")
        except httpx.TransportError:
            answer = None
        if answer is not None and answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            return dict(answer.raise_for_status().json())
        if time.monotonic() > give_up:
            sys.exit("the service does not come back")
        time.sleep(0.2)


def state(server: httpx.Client, given: argparse.Namespace) -> None:
    """Print a job's state."""
    print(job(server, given.jobs[0])["state"])


def answer(server: httpx.Client, given: argparse.Namespace) -> None:
    """One photo, waited for on its connection."""
    server.post("/v1/upscale", files={"image": photo(given.width)}).raise_for_status()


COMMANDS = {each.__name__: each for each in (rest, stream, submit, collect, state, answer)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("jobs", nargs="*")
    parser.add_argument("--rest", required=True, help="address of REST")
    parser.add_argument("--grpc", required=True)
    parser.add_argument("--width", type=int, default=360, help="pixels of the photo")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--running", action="store_true")
    given = parser.parse_intermixed_args()
    with httpx.Client(base_url=given.rest, timeout=PATIENCE_S, trust_env=False) as server:
        COMMANDS[given.command](server, given)


if __name__ == "__main__":
    main()
