"""What each client has had of the device, and what it has in hand: the least served goes first."""

from collections import Counter


class Shares:
    """Device seconds by client, over its weight, as long as it has images in hand.

    One that comes begins at the share that the client whose turn it is had at the start of it (start-time fair
    queueing): it neither owes nor is owed for the time before, and goes before those who have been served since.
    """

    def __init__(self) -> None:
        self.used: dict[str, float] = {}
        self._tiles: Counter[str] = Counter()
        self._turn = 0.0

    def enter(self, client: str, tiles: int) -> None:
        """An image of the client has come."""
        self._tiles[client] += tiles
        self.used.setdefault(client, self._turn)

    def turn(self, client: str) -> None:
        """The device begins a batch for the client's sake."""
        self._turn = max(self._turn, self.used[client])

    def charge(self, client: str, seconds: float) -> None:
        """The device has worked for the client."""
        self.used[client] = self.used.get(client, 0.0) + seconds

    def leave(self, client: str, tiles: int) -> None:
        """An image of the client has gone."""
        self._tiles[client] -= tiles
        if self._tiles[client] <= 0:
            del self._tiles[client], self.used[client]

    def crowding(self, batch: int) -> set[str]:
        """Those who could fill a batch alone and have had more than others have: they give way."""
        least = min(self.used.values(), default=0.0)
        return {client for client, tiles in self._tiles.items() if tiles >= batch and self.used[client] > least}
