"""Draws the table of own images in benchmarks/RESULTS.md as `docs/images/few-shot.svg`.

Run from the checkout's root after `benchmarks/own_images.py --write`:
`python benchmarks/own_images_plot.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

_ROOT = Path(__file__).resolve().parents[1]
_RESULTS, _OUT = _ROOT / "benchmarks" / "RESULTS.md", _ROOT / "docs" / "images" / "few-shot.svg"
_SECTION = re.compile("<!-- own-images: begin -->(.*?)<!-- own-images: end -->", re.DOTALL)
_CLEAN = re.compile(r"Without ink: ([\d.]+) mIoU")
_ROW = re.compile(
    r"\| (\d+) \| ([a-z ]+) \| ([\d.]+) \| ([\d.]+) \| (?:\+[\d.]+ \[([+-][\d.]+), ([+-][\d.]+)\])?"
)
_LINES: Mapping[tuple[str, bool], tuple[str, str, str]] = {
    ("these alone", True): ("own images alone", "#0072b2", "s"),
    ("toy and these", True): ("beside generated pictures, local score only", "#d55e00", "o"),
    ("toy and these", False): ("beside generated pictures, with CLIP's global score", "#009e73", "^"),
}
"""Name, colour and sign by the index and by whether CLIP's global score is left out."""


def points(section: str) -> dict[tuple[str, bool], list[tuple[int, float, float, float]]]:
    """Images per class, mIoU, and how far its interval reaches below and above, by line of the plot."""
    found: dict[tuple[str, bool], list[tuple[int, float, float, float]]] = {key: [] for key in _LINES}
    rows = [match.groups() for match in _ROW.finditer(section)]
    before = next(float(row[3]) for row in rows if row[0] == "0")
    for count, index, weight, miou, low, high in rows:
        below, above = (
            (float(miou) - before - float(low), before + float(high) - float(miou)) if low else (0, 0)
        )
        keys = (
            [(index, weight == "1.0")]
            if count != "0"
            else [key for key in _LINES if key[1] == (weight == "1.0")]
        )
        for key in keys:
            if not (count == "0" and key[0] == "these alone"):  # no index of no images
                found[key].append((int(count), float(miou), below, above))
    return found


def main() -> None:
    matched = _SECTION.search(_RESULTS.read_text(encoding="utf-8"))
    assert matched, f"{_RESULTS} has no table of own images"
    (clean,) = _CLEAN.findall(matched[1])
    plt.rcParams.update({"svg.hashsalt": "freeda", "font.size": 10})
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    axes.axhline(float(clean), color="#888888", linestyle="--", linewidth=1)
    axes.text(
        20, float(clean) - 1.5, "in the style that the models know", color="#555555", ha="right", va="top"
    )
    for key, line in points(matched[1]).items():
        name, color, sign = _LINES[key]
        counts, means, below, above = zip(*line, strict=True)
        axes.errorbar(counts, means, (below, above), label=name, color=color, marker=sign, capsize=3)
    axes.set(xlabel="own images per class", ylabel="mIoU, 50 classes", ylim=(0, 100), xticks=(0, 1, 5, 20))
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(-0.2, 24)
    axes.set_xticks((0, 1, 5, 20), ("0", "1", "5", "20"))
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, 0.82))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(_OUT, metadata={"Date": None})


if __name__ == "__main__":
    main()
