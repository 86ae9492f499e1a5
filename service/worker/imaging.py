"""One job's way from file to file: read and decode, through the device, encode and store."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor

from torch import Tensor

from model.plan import works
from service import images
from service.errors import TooManyPixels
from service.job import Job, Leased, Result
from service.queue.blobs import BlobStore, result_key
from service.settings import Settings
from service.tracing import span
from service.worker.engine import Engine
from service.worker.image import Image
from service.worker.pixels import to_picture, to_tensor
from service.worker.served import Models


class ImageWork:
    """File work runs in a pool beside the device thread, never in its way."""

    def __init__(
        self,
        settings: Settings,
        models: Models,
        blobs: BlobStore,
        engine: Engine,
        pool: Executor,
    ) -> None:
        self._settings = settings
        self._models = models
        self._blobs = blobs
        self._engine = engine
        self._pool = pool

    def plan(self, job: Job, on_tile: Callable[[int], None]) -> Image:
        """The job's image as the device will see it. Raises TooManyPixels where it can never fit in its memory."""
        options, served = job.options, self._models.served[job.options.model]
        ahead = works((job.width, job.height), options.scale, served.pipe.geometry)
        image = Image(
            options.model, ahead, served.each, on_tile, options.priority, client=job.client, weight=job.weight
        )
        if image.lone_bytes > self._models.budget_bytes:
            raise TooManyPixels(
                f"The image needs {image.lone_bytes / 2**20:,.0f} MiB of device memory at {options.scale:g}×, "
                f"and there are {self._models.budget_bytes / 2**20:,.0f} MiB."
            )
        return image

    async def upscale(self, leased: Leased, image: Image) -> Result:
        """Do the job. Cancelling this drops the image before its next batch."""
        loop = asyncio.get_running_loop()
        job, options = leased.job, leased.job.options
        pipe = self._models.served[options.model].pipe
        began = time.monotonic()
        self._engine.expect(image)
        try:
            with span("read"):
                picture, pixels = await loop.run_in_executor(self._pool, self._read, job)
            read = time.monotonic()
            with span("device", tiles=image.tiles):
                self._engine.submit(
                    image,
                    lambda: pipe.upscale(
                        pixels,
                        scale=options.scale,
                        strength=options.strength,
                        color_fix=options.color_fix,
                        deep=picture.depth > 8,
                    ),
                )
                upscaled = await asyncio.wrap_future(image.outcome)
        finally:
            image.outcome.cancel()  # where it has none yet: the device drops it
        seconds = {"queue_wait": leased.waited_s, "decode_file": read - began, **image.seconds}
        with span("write"):
            return await loop.run_in_executor(self._pool, self._write, leased, picture, upscaled, seconds)

    def _read(self, job: Job) -> tuple[images.Picture, Tensor]:
        picture = images.decode(self._blobs.get(job.input_key), max_pixels=self._settings.max_input_pixels)
        return picture, to_tensor(picture)

    def _write(self, leased: Leased, picture: images.Picture, upscaled: Tensor, seconds: dict[str, float]) -> Result:
        began = time.monotonic()
        options = leased.job.options
        picture = to_picture(upscaled, picture, options)
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
