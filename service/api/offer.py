"""The models on offer, as the queue said a moment ago: a request does not wait to hear what hardly ever changes."""

import asyncio
import time
from collections.abc import Mapping

from service.errors import Unavailable, UnknownModel
from service.job import VariantInfo
from service.queue.queue import Queue

FRESH_S = 1.0


class Offer:
    """Variants by name. What is older than FRESH_S is still told, and asked for anew meanwhile."""

    def __init__(self, queue: Queue, default: str) -> None:
        self._queue = queue
        self._default = default
        self._known: dict[str, VariantInfo] = {}
        self._asked_at = 0.0
        self._asking: asyncio.Task[None] | None = None

    async def find(self, name: str) -> VariantInfo:
        """The variant of that name; for an empty name the default. Raises UnknownModel, Unavailable."""
        if (name or self.default(self._known)) not in self._known:
            await self._ask()
        elif time.monotonic() - self._asked_at > FRESH_S and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask_quietly())
        if not self._known:
            raise Unavailable("No worker has started yet, so no model is served.")
        name = name or self.default(self._known)
        if name not in self._known:
            raise UnknownModel(f"No model named {name!r} is served.", f"Served are: {', '.join(self._known)}.")
        return self._known[name]

    def default(self, variants: Mapping[str, VariantInfo]) -> str:
        """The model of a request that names none; empty when nothing is served."""
        return self._default or next(iter(variants), "")

    def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()

    async def _ask(self) -> None:
        self._known = await self._queue.variants()
        self._asked_at = time.monotonic()

    async def _ask_quietly(self) -> None:
        try:
            await self._ask()
        except Unavailable:
            self._known = {}  # so that the next request finds out before its file is stored
