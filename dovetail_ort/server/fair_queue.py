"""Who is next: clients take turns, and each client's own items keep their order."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class FairQueue(Generic[ItemT]):
    """Items of several clients. A client that adds many does not hold up one that adds a single one.

    Example: a adds 1, 2, 3, then b adds 4; they come out as 1, 4, 2, 3.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[ItemT]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, client: str, item: ItemT) -> None:
        """Add an item behind the client's others."""
        self._waiting.setdefault(client, deque()).append(item)

    def take(self) -> ItemT:
        """Remove and return the first item of the client whose turn it is; IndexError if there is none."""
        if not self._waiting:
            raise IndexError("the queue is empty")
        client, items = self._waiting.popitem(last=False)
        item = items.popleft()
        if items:
            self._waiting[client] = items  # behind the others
        return item

    def discard(self, client: str, item: ItemT) -> None:
        """Remove an item if it is still there."""
        items = self._waiting.get(client, deque())
        if item in items:
            items.remove(item)
        if not items:
            self._waiting.pop(client, None)
