"""What is kept of earlier answers: bounded, and safe under threads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["BoundedCache"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """Keeps the values that were asked for last."""

    def __init__(self, most: int, size_of: Callable[[Value], int] = lambda value: 1) -> None:
        """most: the sum of the sizes of all values kept."""
        self._most, self._size_of = most, size_of
        self._lock = Lock()
        self._held: OrderedDict[Key, Value] = OrderedDict()
        self._size = 0

    @property
    def size(self) -> int:
        """The sum of the sizes of all values kept."""
        return self._size

    def find(self, keys: Iterable[Key]) -> dict[Key, Value]:
        """The values of those keys that are kept."""
        with self._lock:
            found = {key: self._held[key] for key in keys if key in self._held}
            for key in found:
                self._held.move_to_end(key)
            return found

    def keep(self, values: Mapping[Key, Value]) -> None:
        """Keeps some values, in place of those that were not asked for longest."""
        with self._lock:
            for key, value in values.items():
                if key in self._held:
                    self._size -= self._size_of(self._held.pop(key))
                self._held[key] = value
                self._size += self._size_of(value)
            while self._size > self._most:
                self._size -= self._size_of(self._held.popitem(last=False)[1])
