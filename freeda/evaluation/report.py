"""What an evaluation leaves: figures as JSON, CSV and text, a confusion plot, a sheet of the worst images."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from freeda.evaluation.average_precision import average_precision
from freeda.evaluation.layouts import IGNORED
from freeda.evaluation.metrics import ConfusionMatrix
from freeda.evaluation.runner import Run
from freeda.methods.base import Segmenter
from freeda.presets.settings import FROM_INDEX
from freeda.segmentation.colors import class_colors
from freeda.segmentation.drawing import draw_overlay
from freeda.segmentation.images import read_image
from freeda.segmentation.result import Segmentation

__all__ = ["summary", "table", "write_report"]

_WORST = 8
_PLOTTED = 40
_CELL = 320


def summary(run: Run) -> dict[str, Any]:
    """The figures: mIoU and pixel accuracy in percent, per class IoU and pixels, times, paths."""
    matrix = run.matrix()
    iou, counts = matrix.iou(), matrix.counts()
    seconds = [record.seconds for record in run.records]
    return {
        "settings": dict(run.settings),
        "protocol": {
            "background": _background(run),
            "threshold": "fixed" if run.dataset.background else "none",
            "vocabulary": "all classes of the data set",
        },
        "images": len(run.records),
        "miou": _percent(matrix.mean_iou()) if counts.any() else None,
        "pixel_accuracy": _percent(matrix.pixel_accuracy()) if counts.any() else None,
        "oracle_threshold": _oracle_threshold(run),
        **_segment_figures(run),
        "seconds_per_image": round(sum(seconds) / max(len(seconds), 1), 4),
        "paths": _paths(run),
        "classes": [
            {
                "label": number,
                "name": name,
                "iou": None if np.isnan(iou[number]) else _percent(float(iou[number])),
                "pixels": int(counts[number].sum()),
            }
            for number, name in enumerate(run.names)
        ],
    }


def _segment_figures(run: Run) -> dict[str, Any]:
    """Panoptic quality, or average precision, of a run that measured it."""
    things = run.dataset.things
    if run.settings["task"] == "panoptic":
        total = run.panoptic()
        groups = {"all": None, "things": things, "stuff": set(range(len(run.dataset.classes))) - things}
        return {"panoptic": {name: _quality(total.mean(some)) for name, some in groups.items()}}
    if run.settings["task"] == "instance":
        numbers = {run.dataset.name(number): number for number in range(len(run.dataset))}
        truths = (run.dataset.annotated(numbers[record.name]) for record in run.records)
        found = average_precision(truths, [record.instances for record in run.records], things)
        return {"instances": {name: _percent_or_none(value) for name, value in vars(found).items()}}
    return {}


def _quality(means: tuple[float, float, float]) -> dict[str, float | None]:
    return {name: _percent_or_none(value) for name, value in zip(("pq", "sq", "rq"), means, strict=True)}


def _percent_or_none(share: float) -> float | None:
    return None if np.isnan(share) else _percent(share)


def _background(run: Run) -> str:
    """How the background was decided, as far as the method's identity says."""
    if not run.dataset.background:
        return "none in the vocabulary"
    rules = [] if run.settings.get("background") is None else ["constant score"]
    concepts = run.settings.get("background_concepts", ())
    if concepts == FROM_INDEX:
        rules.append("the index's other nouns")
    elif concepts:
        named = {name.casefold() for item in run.dataset.classes for name in item.names}
        rules.append(f"{sum(name.casefold() not in named for name in concepts)} concepts")
    return " and ".join(rules) or "the method's own rule"


def _oracle_threshold(run: Run) -> dict[str, float] | None:
    """The best threshold, found with the test labels: this is no result of the method."""
    swept = [(matrix.mean_iou(), -threshold, matrix) for threshold, matrix in run.at_thresholds()]
    if not swept:
        return None
    miou, threshold, matrix = max(swept, key=lambda entry: entry[:2])
    return {
        "threshold": -threshold,
        "miou": _percent(miou),
        "pixel_accuracy": _percent(matrix.pixel_accuracy()),
    }


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _paths(run: Run) -> dict[str, int]:
    total: dict[str, int] = {}
    for record in run.records:
        for name, count in record.paths.items():
            total[name] = total.get(name, 0) + count
    return total


def table(figures: Mapping[str, Any]) -> str:
    """The figures as text: every class that occurs, best first, then all together."""
    if figures["miou"] is None:
        return f"{figures['images']:,} images, and no pixel of them counts: all are ignored"
    present = [item for item in figures["classes"] if item["iou"] is not None]
    present.sort(key=lambda item: -item["iou"])
    wide = max([len(item["name"]) for item in present] or [5])
    lines = [f"{item['name']:{wide}}  {item['iou']:6.2f}  {item['pixels']:>14,} px" for item in present]
    oracle = figures["oracle_threshold"]
    paths = ", ".join(f"{count:,} {name}" for name, count in figures["paths"].items())
    return "\n".join(
        [
            f"{'class':{wide}}  {'IoU':>6}",
            *lines,
            "",
            f"images          {figures['images']:,}",
            f"mIoU            {figures['miou']:.2f} over {len(present)} of {len(figures['classes'])} classes",
            f"pixel accuracy  {figures['pixel_accuracy']:.2f}",
            *(
                [
                    f"oracle          mIoU {oracle['miou']:.2f} at background {oracle['threshold']:.2f}, "
                    f"the best threshold by these very labels"
                ]
                if oracle
                else []
            ),
            *_segment_lines(figures),
            f"seconds/image   {figures['seconds_per_image']:.3f}",
            *([f"paths           {paths}"] if paths else []),
        ]
    )


def _segment_lines(figures: Mapping[str, Any]) -> list[str]:
    lines = [
        f"PQ, {group:12}{_shown(found['pq'])} (SQ {_shown(found['sq'])}, RQ {_shown(found['rq'])})"
        for group, found in figures.get("panoptic", {}).items()
    ]
    if (found := figures.get("instances")) is not None:
        lines.append(
            f"AP              {_shown(found['ap'])} (at IoU 0.5: {_shown(found['ap50'])}, "
            f"at 0.75: {_shown(found['ap75'])})"
        )
    return lines


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def write_report(run: Run, segmenter: Segmenter, out: Path) -> list[Path]:
    """Writes report.json, classes.csv, confusion.png and worst.png into `out`; returns the paths."""
    figures = summary(run)
    paths = [out / name for name in ("report.json", "classes.csv", "confusion.png", "worst.png")]
    paths[0].write_text(
        json.dumps(figures, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
    )
    with paths[1].open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["label", "name", "iou", "pixels"])
        writer.writeheader()
        writer.writerows(figures["classes"])
    _plot_confusion(run.matrix(), run.names, paths[2])
    _worst_sheet(run, segmenter).save(paths[3])
    return paths


def _plot_confusion(matrix: ConfusionMatrix, names: tuple[str, ...], path: Path) -> None:
    """Shares of each true class's pixels by predicted class; the most frequent classes of many."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts = matrix.counts()
    shown = np.sort(np.argsort(-counts.sum(1), kind="stable")[: min(_PLOTTED, len(names))])
    shown = shown[counts[shown].sum(1) > 0]
    shares = counts[shown][:, shown] / np.maximum(counts[shown].sum(1, keepdims=True), 1)
    side = 2.5 + 0.24 * len(shown)
    figure = Figure((side + 1, side), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    picture = axes.imshow(shares, vmin=0, vmax=1, cmap="magma")
    labels = [names[number] for number in shown]
    axes.set_xticks(range(len(shown)), labels, rotation=90, fontsize=8)
    axes.set_yticks(range(len(shown)), labels, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    left_out = int((counts.sum(1) > 0).sum()) - len(shown)
    axes.set_title(
        f"share of true pixels{f' ({left_out} rarer classes not shown)' if left_out else ''}", fontsize=9
    )
    figure.colorbar(picture, shrink=0.7)
    figure.savefig(path)


def _worst_sheet(run: Run, segmenter: Segmenter) -> Image.Image:
    """The images of lowest mIoU, segmented once more: image, truth, prediction."""
    numbers = {run.dataset.name(number): number for number in range(len(run.dataset))}
    worst = sorted(run.records, key=lambda record: record.miou)[:_WORST]
    chosen = [numbers[record.name] for record in worst]
    results = list(segmenter.stream(run.dataset.image(number) for number in chosen))
    sheet = Image.new("RGB", (3 * _CELL + 260, max(len(worst), 1) * (_CELL + 24)), "white")
    for row, (record, number, result) in enumerate(zip(worst, chosen, results, strict=True)):
        top = row * (_CELL + 24)
        caption = f"{record.name}: mIoU {100 * record.miou:.1f}   image | truth | prediction"
        ImageDraw.Draw(sheet).text((4, top + 4), caption, fill="black", font=ImageFont.load_default(13))
        image = read_image(run.dataset.image(number))
        truth = run.dataset.truth(number)
        true = Segmentation(
            image, truth.astype(np.int32), np.ones(truth.shape, np.float32), run.names, IGNORED
        )
        present = dict.fromkeys(item["id"] for shown in (true, result) for item in shown.segments_info)
        colors = class_colors(run.names, list(present))
        overlays = [draw_overlay(item, colors=colors) for item in (true, result)]
        for column, picture in enumerate((Image.fromarray(image), *overlays)):
            box = (_CELL - 6 + 260 * (column == 2), _CELL)
            sheet.paste(ImageOps.contain(picture, box), (column * _CELL, top + 22))
    return sheet
