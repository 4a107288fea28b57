"""Which ids have been given, for a hundred million captions: 16 bytes each, not a Python text."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["SeenIds"]

_RECENT = 65_536
_HALVES = [("high", np.uint64), ("low", np.uint64)]


class SeenIds:
    """A set of texts, kept as 128-bit digests in sorted runs, each at least twice as long as the next."""

    def __init__(self) -> None:
        self._recent: set[bytes] = set()
        self._runs: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._recent) + sum(map(len, self._runs))

    def add(self, text: str) -> bool:
        """Adds a text; False where it was there."""
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest in self._recent or self._is_in_runs(digest):
            return False
        self._recent.add(digest)
        if len(self._recent) == _RECENT:
            self._pack()
        return True

    def _is_in_runs(self, digest: bytes) -> bool:
        wanted = np.frombuffer(digest, _HALVES)[0]
        for run in self._runs:
            first = int(np.searchsorted(run["high"], wanted["high"]))
            while first < len(run) and run["high"][first] == wanted["high"]:
                if run["low"][first] == wanted["low"]:
                    return True
                first += 1
        return False

    def _pack(self) -> None:
        run = np.frombuffer(b"".join(self._recent), _HALVES)
        self._recent = set()
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            run = np.concatenate([self._runs.pop(), run])
        self._runs.append(run[np.argsort(run["high"], kind="stable")])
