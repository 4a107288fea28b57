"""Why FreeDA gave a pixel its class: scored once more by the functions that scored it, and looked into."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from freeda.class_names import BACKGROUND
from freeda.methods.freeda.method import FreedaMethod
from freeda.methods.freeda.vocabulary import Vocabulary
from freeda.methods.freeda.windows import EncodedImage, ScoredWindow
from freeda.segmentation.decision import THRESHOLD_ROW, rank
from freeda.segmentation.evidence import Candidate, Evidence, Vote
from freeda.segmentation.refinement import contenders, refined
from freeda.segmentation.scoring import fuse_scores
from freeda.segmentation.windows import WindowedImage

__all__ = ["explain"]

_CANDIDATES, _VOTES = 6, 6


def explain(method: FreedaMethod, image: EncodedImage, vocabulary: Vocabulary, x: int, y: int) -> Evidence:
    """Evidence for pixel (x, y) of an image, averaged over the windows that hold it."""
    item = image.windowed
    row, column = _working_pixel(item, x, y)
    wanted = item.windows_at(row, column)
    windows = list(method.scored_windows(image, vocabulary))
    holding = [windows[number] for number in wanted]
    offsets = [_offset(item, number, row, column) for number in wanted]
    pairs = list(zip(holding, offsets, strict=True))
    local = _mean([window.local_at(*at) for window, at in pairs])
    similarity = _mean([window.similarity for window in holding])
    scores = fuse_scores(local, similarity, method.settings.local_weight)
    if method.settings.pamr:
        scores = _refined(method, item, vocabulary, windows, wanted, scores)[:, row, column]
    rows = rank(scores.tolist(), len(vocabulary.classes), method.background)
    nearest, at = pairs[0]
    weight = method.settings.local_weight
    return Evidence(
        image=item.pixels,
        x=x,
        y=y,
        region=item.region_at(wanted[0], nearest.window.regions, row, column),
        candidates=_candidates(method, vocabulary, rows, (scores, local, similarity)),
        weights={"local": weight, "global": round(1 - weight, 6)},
        votes=_votes(method, vocabulary, rows[0], nearest.window.feature_at(*at)),
        refined=method.settings.pamr > 0,
    )


def _refined(
    method: FreedaMethod,
    item: WindowedImage,
    vocabulary: Vocabulary,
    windows: Sequence[ScoredWindow],
    wanted: Sequence[int],
    scores: torch.Tensor,
) -> torch.Tensor:
    """(C, h, w) refined scores in the windows wanted; minus infinity for classes that neither can win nor are
    shown.
    """
    weight = method.settings.local_weight
    parts = [window.parts(area, weight) for area, window in zip(item.areas, windows, strict=True)]
    shown = scores.argsort(descending=True)[:_CANDIDATES].tolist()
    classes = sorted({*contenders(parts, vocabulary.groups), *shown})
    chosen = [parts[number] for number in wanted]
    return refined(chosen, item.image, classes, method.settings.pamr, method.backbone.device).dense()


def _working_pixel(item: WindowedImage, x: int, y: int) -> tuple[int, int]:
    """Row and column of an original pixel's centre at the working size."""
    sizes = zip((y, x), item.image.shape[-2:], item.pixels.shape[:2], strict=True)
    row, column = (min(int((at + 0.5) * working / original), working - 1) for at, working, original in sizes)
    return row, column


def _offset(item: WindowedImage, number: int, row: int, column: int) -> tuple[int, int]:
    rows, columns = item.areas[number]
    return row - rows.start, column - columns.start


def _mean(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(values)).mean(0)


def _candidates(
    method: FreedaMethod,
    vocabulary: Vocabulary,
    rows: Sequence[int],
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> tuple[Candidate, ...]:
    """The best classes. parts: (C,) scores, local scores and global similarities."""
    found = []
    for row in rows[:_CANDIDATES]:
        if row == THRESHOLD_ROW and method.settings.background is None:
            continue
        if row == THRESHOLD_ROW:
            assert method.background is not None
            name, values = BACKGROUND, [method.background] * 3
        else:
            name, values = vocabulary.row_names[row], [float(part[row]) for part in parts]
        score, local, similarity = (round(value, 4) for value in values)
        found.append(Candidate(name=name, score=score, parts={"local": local, "global": similarity}))
    return tuple(found)


def _votes(
    method: FreedaMethod, vocabulary: Vocabulary, best: int, feature: torch.Tensor
) -> tuple[Vote, ...]:
    """The prototypes behind a class that look most like the region; none for the background's threshold.

    Where regions retrieve, those that the region found.
    """
    if best == THRESHOLD_ROW:
        return ()
    index, rows = method.index, _voters(method, vocabulary, best, feature)
    vectors = torch.from_numpy(index.vectors(rows)).to(feature.device)
    looks = vocabulary.compared(vectors) @ vocabulary.compared(feature[None])[0]
    looks = looks.nan_to_num(-1.0)  # a damaged prototype votes last
    chosen = looks.argsort(descending=True, stable=True)[:_VOTES].tolist()
    texts = index.keys_of(rows[chosen]) @ vocabulary.texts[best].cpu().numpy()
    columns = ("id", "noun", "caption", "thumbnail")
    return tuple(
        Vote(
            row=int(place),
            **held,
            text_similarity=round(float(text), 4),
            visual_similarity=round(float(looks[number]), 4),
        )
        for number, text, place, held in zip(
            chosen, texts, rows[chosen], index.rows(rows[chosen], columns), strict=True
        )
    )


def _voters(method: FreedaMethod, vocabulary: Vocabulary, best: int, feature: torch.Tensor) -> np.ndarray:
    if method.settings.retrieval == "region":
        found = method.index.search_vectors(feature[None].cpu().numpy(), method.settings.region_neighbors)
        rows: np.ndarray = found[0]
    else:
        rows = vocabulary.retrieved.rows[best]
    return rows[rows >= 0]
