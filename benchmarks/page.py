"""How long the page's server takes for one more class and for a click, beside an image it has not seen.

Run from the checkout's root: `python benchmarks/page.py [--write]`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import click
from measuring import machine
from results import publish
from starlette.testclient import TestClient

from freeda.index.finding import listed_indexes
from freeda.models.loading import choose_device
from freeda.toyworld.make_examples import EXAMPLES
from freeda.toyworld.vocabulary import THINGS
from freeda.web.application import create_application
from freeda.web.limits import Limits
from freeda.web.studio import Studio

_ROUNDS = 12


class Asking:
    """Asks the page's application as the page does."""

    def __init__(self) -> None:
        studio = Studio(listed_indexes(), Limits())
        self._client = TestClient(create_application(studio, hosts=None))
        self._client.post("/api/segment", json=self._question(self.upload("scene-1.png"), ["cat"]))

    def upload(self, name: str) -> str:
        return str(self._client.post("/api/images", content=(EXAMPLES / name).read_bytes()).json()["image"])

    def segment(self, image: str, classes: list[str]) -> str:
        told = self._client.post("/api/segment", json=self._question(image, classes)).json()
        self._client.get(f"/api/results/{told['result']}/labels.u16")
        return str(told["result"])

    def explain(self, result: str, x: int, y: int) -> None:
        self._client.post("/api/explain", json={"result": result, "x": x, "y": y}).raise_for_status()

    @staticmethod
    def _question(image: str, classes: list[str]) -> dict[str, object]:
        return {"image": image, "classes": classes, "method": "freeda", "index": "toy", "background": False}


def milliseconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def table() -> Iterator[str]:
    asking = Asking()
    image = asking.upload("scene-5.png")
    first = milliseconds(lambda: asking.segment(image, list(THINGS[:5])))
    counts = range(6, 6 + _ROUNDS)
    more = [milliseconds(partial(asking.segment, image, list(THINGS[:count]))) for count in counts]
    result = asking.segment(image, list(THINGS[:5]))
    clicks = [milliseconds(partial(asking.explain, result, x, 80)) for x in range(10, 10 + _ROUNDS)]
    yield "`python benchmarks/page.py --write`: the toy preset, an image of 240 x 160 pixels."
    yield f"{machine(choose_device('auto'))}. Medians of {_ROUNDS}."
    yield ""
    yield "| | ms |"
    yield "|---|---|"
    yield f"| an image not seen before, 5 classes | {first:.0f} |"
    yield f"| **the same image with one more class** | {median(more):.0f} |"
    yield f"| **a click: region, scores, prototypes** | {median(clicks):.0f} |"


@click.command()
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(write: bool) -> None:
    """Prints the table."""
    publish("page", ["## The page", ""], table(), write=write)


if __name__ == "__main__":
    main()
