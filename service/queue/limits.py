"""What one submit may not exceed, and how long a refused client should wait.

All bounds are checked in the script that would put the job in line, so no two submits can pass one together. A refusal
names whole seconds (at least one, rounded up) after which the same request is likely to be taken:

- `max_waiting`: until a tenth of the bound (at least one job) has been taken from the line; a job is taken to cost the
  mean of those that wait, by the learned seconds per megapixel, with all live workers at work.
- `max_client_waiting`, `max_active`: until a tenth of the bound has been taken of the client's own jobs, when the
  clients with waiting jobs take turns by their weights.
- `max_stored_bytes`: until the files that expire first make enough room.
- `per_minute`: until the next token; a client that was quiet for a minute has all of them.
"""

from dataclasses import dataclass

from service.errors import QueueFull, RateExceeded, ShareFull, StorageFull, TooManyRequests


@dataclass(frozen=True)
class Limits:
    """Bounds of a submit; None: no bound."""

    max_waiting: int | None = None
    """Jobs in line, of all clients and variants."""
    max_client_waiting: int | None = None
    """Jobs of the client in line."""
    max_active: int | None = None
    """Jobs of the client in line or under way."""
    per_minute: int | None = None
    """Jobs that the client submits in a minute. Those that are refused, or join another, do not count."""
    max_stored_bytes: int | None = None
    """Files and results of all clients that are kept, the new file included."""

    def refusal(self, bound: str, retry_after_s: int) -> TooManyRequests:
        """The error that says which of the bounds was met."""
        kind, words = _REFUSALS[bound]
        return kind(words.format(getattr(self, bound)), retry_after_s=retry_after_s)


NO_LIMITS = Limits()

_REFUSALS: dict[str, tuple[type[TooManyRequests], str]] = {
    "max_waiting": (QueueFull, "{:,} jobs wait in line, as many as may."),
    "max_client_waiting": (ShareFull, "{:,} jobs of this client wait in line, as many as may."),
    "max_active": (ShareFull, "{:,} jobs of this client wait or are under way, as many as may."),
    "per_minute": (RateExceeded, "This client has used up its {:,} jobs a minute."),
    "max_stored_bytes": (StorageFull, "The file does not fit beside those that are kept, in {:,} bytes in all."),
}
