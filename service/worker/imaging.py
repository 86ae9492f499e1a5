"""One job's way from file to file: read and decode, through the device, encode and store."""

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor

from torch import Tensor

from model.pipeline import OMGSRPipeline
from model.plan import tile_count
from service import images
from service.job import Job, Leased, Result
from service.queue.blobs import BlobStore, result_key
from service.settings import Settings
from service.worker.engine import Engine, Image
from service.worker.pixels import to_rgb, to_tensor


class ImageWork:
    """File work runs in a pool beside the device thread, never in its way."""

    def __init__(
        self,
        settings: Settings,
        pipes: Mapping[str, OMGSRPipeline],
        blobs: BlobStore,
        engine: Engine,
        pool: Executor,
    ) -> None:
        self._settings = settings
        self._pipes = pipes
        self._blobs = blobs
        self._engine = engine
        self._pool = pool

    def tiles(self, job: Job) -> int:
        """How many tiles the job will take."""
        return tile_count((job.width, job.height), job.options.scale, self._pipes[job.options.model].geometry)

    async def upscale(self, leased: Leased, on_tile: Callable[[int], None]) -> Result:
        """Do the job. Cancelling this drops the image before its next batch."""
        loop = asyncio.get_running_loop()
        job, options = leased.job, leased.job.options
        began = time.monotonic()
        picture, pixels = await loop.run_in_executor(self._pool, self._read, job)
        read = time.monotonic()
        steps = self._pipes[options.model].upscale(
            pixels, scale=options.scale, strength=options.strength, color_fix=options.color_fix
        )
        image = Image(options.model, steps, options.priority, on_tile)
        self._engine.submit(image)
        upscaled = await asyncio.wrap_future(image.outcome)
        seconds = {"queue_wait": leased.waited_s, "decode_file": read - began, **image.seconds}
        return await loop.run_in_executor(self._pool, self._write, leased, picture, upscaled, seconds)

    def _read(self, job: Job) -> tuple[images.Picture, Tensor]:
        picture = images.decode(self._blobs.get(job.input_key), max_pixels=self._settings.max_input_pixels)
        return picture, to_tensor(picture.rgb)

    def _write(self, leased: Leased, picture: images.Picture, upscaled: Tensor, seconds: dict[str, float]) -> Result:
        began = time.monotonic()
        options = leased.job.options
        picture = picture.with_rgb(to_rgb(upscaled))
        data, mime_type = images.encode(picture, options.format, options.quality)
        key = result_key(leased.job.id, leased.attempt)
        self._blobs.put(key, data)
        return Result(
            key=key,
            mime_type=mime_type,
            width=picture.width,
            height=picture.height,
            bytes=len(data),
            seconds={**seconds, "encode_file": time.monotonic() - began},
        )
