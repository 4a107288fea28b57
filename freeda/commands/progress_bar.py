"""A progress bar on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from index_build.cluster.progress import Progress

__all__ = ["ProgressBar"]


class ProgressBar:
    """A tqdm bar on standard error. unit: what is counted, with a space before it."""

    def __init__(self, unit: str) -> None:
        self._unit = unit

    def __enter__(self) -> ProgressBar:
        from tqdm import tqdm

        self._bar = tqdm(unit=self._unit, file=sys.stderr, dynamic_ncols=True, mininterval=0.5)
        return self

    def __exit__(self, *exception: object) -> None:
        with self._shown():
            self._bar.close()

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Where nobody reads standard error any more, the work goes on without a bar."""
        try:
            yield
        except OSError:
            self._bar.disable = True

    def advance(self, done: int, total: int) -> None:
        self._bar.total = total
        if self._bar.n == 0:  # what an earlier run did does not count for the speed
            self._bar.initial = done
        with self._shown():
            self._bar.update(done - self._bar.n)

    def count(self, done: int) -> None:
        """Shows a count whose total is not known."""
        with self._shown():
            self._bar.update(done - self._bar.n)

    def update(self, progress: Progress) -> None:
        with self._shown():
            self._update(progress)

    def _update(self, progress: Progress) -> None:
        if self._bar.disable:
            return
        if progress.note:
            self._bar.write(progress.note, file=sys.stderr)
            return
        self._bar.total = progress.total
        self._bar.set_description(progress.message or "building", refresh=False)
        busy = sum(state == "busy" for state in progress.workers.values())
        counts: dict[str, int | str] = {"prototypes": progress.prototypes, "rejects": progress.rejects}
        if progress.resumed > self._bar.initial:  # what an earlier run did does not count for the speed
            self._bar.initial = progress.resumed
        if new := progress.images - progress.resumed_images:
            counts["images/s"] = f"{new / self._bar.format_dict['elapsed']:.2f}"
        if progress.workers:
            counts["workers"] = f"{busy}/{len(progress.workers)} busy"
        self._bar.set_postfix(counts, refresh=False)
        self._bar.update(progress.done - self._bar.n)
        self._bar.refresh()
