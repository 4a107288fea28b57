"""The report of a finished build: one HTML file that shows whether the index is any good."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from freeda.index.format import REPORT, Manifest, open_prototypes
from index_build.generation.samples import Sample

__all__ = ["INSPECTED_SHARDS", "Inspected", "spread", "write_report"]

Item = TypeVar("Item")

INSPECTED_SHARDS = 24
"""Most shards whose sample images are looked at."""
_SHOWN = {"first": 12, "weakest": 8, "sharpest": 8}
"""Most sample images of a kind."""
_MOST_SAME = 0.5
"""Share of pairs of masks that cover the same pixels, above which the report warns."""
_NAMED = 40
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.samples, .plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(30rem, 1fr)); gap: 1.2rem }
.warning { border-left: .3rem solid #c3690f; background: #fdf3e7; padding: .6rem 1rem }
figure { margin: 0 } figcaption { color: #555 } img { max-width: 100% }
"""


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """What the report shows beside the index itself.

    rejects: count by reason.
    samples: in the captions' order.
    mask_pairs, same_masks: pairs of masks of one image, and those that cover the same pixels.
    """

    rejects: Mapping[str, int]
    samples: Sequence[Sample]
    mask_pairs: int = 0
    same_masks: int = 0


def write_report(folder: Path, manifest: Manifest, inspected: Inspected) -> Path:
    """Writes `report.html` beside an index's files in `folder`; the page loads nothing else."""
    page = "\n".join(_page(manifest, _columns(folder, manifest), inspected))
    path = folder / REPORT
    path.write_text(page, encoding="utf-8")
    return path


@dataclass(frozen=True)
class _Columns:
    """Nouns counted, (N,) areas and (N,) peaks of all prototypes."""

    nouns: Counter[str]
    areas: np.ndarray
    peaks: np.ndarray


def _columns(folder: Path, manifest: Manifest) -> _Columns:
    """Read one batch at a time."""
    nouns: Counter[str] = Counter()
    areas, peaks = [], []
    for batch in open_prototypes(folder, manifest):
        nouns.update(batch.column("noun").to_pylist())
        areas.append(batch.column("area").to_numpy())
        peaks.append(batch.column("peak").to_numpy())
    return _Columns(nouns, np.concatenate(areas), np.concatenate(peaks))


def _page(manifest: Manifest, columns: _Columns, inspected: Inspected) -> Iterator[str]:
    yield "<!doctype html>"
    yield f'<html lang="en"><head><meta charset="utf-8"><title>Index report</title><style>{_STYLE}</style>'
    yield "</head><body><h1>Prototype index</h1>"
    yield _facts(manifest)
    yield from _warnings(inspected)
    yield "<h2>Images and masks</h2>"
    yield "<p>A generated image, then the mask of each noun: its prototype is made of the bright part.</p>"
    for kind, title in _TITLES.items():
        yield from _samples(title, _chosen(inspected.samples, kind))
    yield '<h2>Figures</h2><div class="plots">'
    yield from _plots(manifest, columns, inspected)
    yield "</div><h2>Nouns, the most and the least frequent</h2>"
    yield f"<p>{_listed(columns.nouns.most_common(_NAMED))}</p>"
    yield f"<p>{_listed(columns.nouns.most_common()[: -_NAMED - 1 : -1])}</p>"
    yield "</body></html>"


_TITLES = {
    "first": "Typical ones, spread over the captions",
    "weakest": "The weakest: attention is spread out, and masks are likely to be wrong",
    "sharpest": "The sharpest: attention is concentrated",
}


def _warnings(inspected: Inspected) -> Iterator[str]:
    share = inspected.same_masks / max(1, inspected.mask_pairs)
    if share > _MOST_SAME:
        yield (
            f'<p class="warning">{share:.0%} of the pairs of masks of one image cover the same pixels: the '
            f"diffusion model does not tell their nouns apart, and neither will the prototypes. Try captions "
            f"with fewer nouns, a higher <code>localization.threshold</code>, or another model.</p>"
        )


def _chosen(samples: Sequence[Sample], kind: str) -> list[Sample]:
    of_kind = [sample for sample in samples if sample.kind == kind]
    if kind == "first":
        return spread(of_kind, _SHOWN[kind])
    return sorted(of_kind, key=lambda item: item.peak, reverse=kind == "sharpest")[: _SHOWN[kind]]


def _samples(title: str, samples: Sequence[Sample]) -> Iterator[str]:
    if samples:
        yield f'<h3>{title}</h3><div class="samples">'
        yield from map(_sample, samples)
        yield "</div>"


def _plots(manifest: Manifest, columns: _Columns, inspected: Inspected) -> Iterator[str]:
    limit = manifest.preset["localization"]["min_peak"]
    yield _plot(
        "Prototypes per noun, most frequent first. Good: a line that falls slowly, so that most nouns have "
        "dozens. Bad: a few nouns have nearly all prototypes.",
        _frequencies(columns.nouns),
    )
    yield _plot(
        "Share of the image inside a mask. Good: a broad hill, for things are small and grounds are large. "
        "Bad: a peak near 1, where masks take in everything.",
        _histogram(columns.areas, "share of the image"),
    )
    yield _plot(
        f"Peak of a noun's attention map over its mean; below {limit:g} a noun is rejected. Good: most lie "
        f"well above that. Bad: they crowd at the limit, where attention points at nothing.",
        _histogram(columns.peaks, "peak / mean"),
    )
    if inspected.rejects:
        yield _plot(
            "Rejected captions and nouns by reason. Good: a few per cent of all. Bad: one reason rejects a "
            "tenth of them or more.",
            _bars(inspected.rejects),
        )


def _facts(manifest: Manifest) -> str:
    rejected = manifest.rejects / max(1, manifest.rejects + manifest.prototypes)
    facts = {
        "prototypes": f"{manifest.prototypes:,}",
        "nouns": f"{manifest.nouns:,}",
        "captions": f"{manifest.captions:,}",
        "rejects": f"{manifest.rejects:,} ({rejected:.1%} of all nouns)",
        "preset": manifest.preset["name"],
        "build": manifest.build_fingerprint,
    }
    rows = (
        f'<tr><th>{name}</th><td class="n">{html.escape(value)}</td></tr>' for name, value in facts.items()
    )
    return f"<table>{''.join(rows)}</table>"


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` items, spread evenly over all."""
    taken = min(count, len(items))
    return [items[number * len(items) // taken] for number in range(taken)]


def _sample(sample: Sample) -> str:
    nouns = html.escape(", ".join(sample.nouns))
    return (
        f'<figure><img src="{_data(sample.strip, "webp")}" alt="">'
        f"<figcaption>{html.escape(sample.caption)} &mdash; {nouns}</figcaption></figure>"
    )


def _listed(counts: Sequence[tuple[str, int]]) -> str:
    return html.escape(", ".join(f"{noun} ({count})" for noun, count in counts))


def _plot(title: str, figure: Figure) -> str:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    image = f'<img src="{_data(buffer.getvalue(), "png")}" alt="">'
    return f"<figure>{image}<figcaption>{title}</figcaption></figure>"


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _axes(height: float = 2.6) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, height), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _frequencies(nouns: Counter[str]) -> Figure:
    figure, axes = _axes()
    axes.loglog(range(1, len(nouns) + 1), [count for _, count in nouns.most_common()], marker=".")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_xlabel("rank of the noun")
    axes.set_ylabel("prototypes")
    return figure


def _histogram(values: np.ndarray, label: str) -> Figure:
    figure, axes = _axes()
    axes.hist(values[np.isfinite(values)], bins=40)
    axes.set_xlabel(label)
    axes.set_ylabel("prototypes")
    return figure


def _bars(counts: Mapping[str, int]) -> Figure:
    """Longest on top."""
    ordered = sorted(counts.items(), key=lambda item: item[1])
    figure, axes = _axes(1 + 0.3 * len(ordered))
    bars = axes.barh([name for name, _ in ordered], [count for _, count in ordered])
    axes.bar_label(bars, padding=3)
    return figure
