"""What each client has had of the device: the least served goes first."""

from collections import Counter


class Shares:
    """Device seconds by client, over its weight, while it has images in hand.

    One that comes begins where the least served of the others is: it neither owes nor is owed for the time before.
    """

    def __init__(self) -> None:
        self.used: dict[str, float] = {}
        self._images: Counter[str] = Counter()

    def enter(self, client: str) -> None:
        """An image of the client has come."""
        self._images[client] += 1
        self.used.setdefault(client, min(self.used.values(), default=0.0))

    def charge(self, client: str, seconds: float) -> None:
        """The device has worked for the client."""
        self.used[client] = self.used.get(client, 0.0) + seconds

    def leave(self, client: str) -> None:
        """An image of the client has gone."""
        self._images[client] -= 1
        if self._images[client] <= 0:
            del self._images[client], self.used[client]
