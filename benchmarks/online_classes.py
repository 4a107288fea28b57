"""What more classes cost FreeDA's online stage, at the full-size models' shapes. `online.py` prints the
rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from measuring import PeakMemory, fastest
from scipy import sparse

from freeda.class_lists import class_list
from freeda.class_names import ClassName
from freeda.methods.freeda.method import FreedaMethod
from freeda.methods.freeda.vocabulary import Vocabulary
from freeda.models.clip import ClipModel
from freeda.records import ClassPrototypes
from freeda.segmentation.cells import WindowParts
from freeda.segmentation.score_maps import best_class
from freeda.segmentation.scoring import fuse_scores
from freeda.toyworld.scenes import draw_scene, scene_rng

__all__ = ["by_number_of_classes", "class_texts", "region_parts"]

_LARGE = (1024, 1536)
_FEW, _MANY, _VERY_MANY = 20, 500, 5000
Row = tuple[str, str]


def region_parts(area: tuple[slice, slice], labels: np.ndarray, scores: torch.Tensor) -> WindowParts:
    """A window whose regions all have (R, C) scores."""
    identity = sparse.identity(len(scores), np.float32, "csr")
    return WindowParts(area, labels.astype(np.int64), identity, scores.cpu().numpy())


def by_number_of_classes(method: FreedaMethod, device: torch.device, repeats: int) -> Iterator[Row]:
    """What more classes cost, on one large photograph, against scores that are kept for every pixel."""
    photograph = method.prepare(draw_scene(scene_rng("validation", 0), _LARGE).image)
    size = (photograph.image.shape[-2], photograph.image.shape[-1])

    def by_cell(vocabulary: Vocabulary) -> np.ndarray:
        (found,) = method.score(method.encode_images([photograph]), vocabulary)
        return found.maps.best(_LARGE, slice(0, len(vocabulary.texts)))[0]

    def by_pixel(vocabulary: Vocabulary) -> np.ndarray:
        sums, visits = torch.zeros(len(vocabulary.texts), *size), torch.zeros(size)
        (encoded,) = method.encode_images([photograph])
        for area, scored in zip(photograph.areas, method.scored_windows(encoded, vocabulary), strict=True):
            scores = fuse_scores(scored.local, scored.similarity, method.settings.local_weight).cpu()
            sums[(..., *area)] += scores.T[:, torch.from_numpy(scored.window.regions.labels.astype(np.int64))]
            visits[area] += 1
        return best_class(sums / visits, _LARGE)[0]

    few, many, huge = (random_vocabulary(count, method, device) for count in (_FEW, _MANY, _VERY_MANY))
    for vocabulary in (few, many):
        different = int((by_cell(vocabulary) != by_pixel(vocabulary)).sum())
        yield f"{len(vocabulary.texts)} classes: pixels with another label than by pixel", f"{different}"
    runs = [partial(run, names) for run in (by_cell, by_pixel) for names in (few, many)]
    cells_few, cells_many, pixels_few, pixels_many = fastest(runs, device, repeats)
    yield "20 classes, s", f"{cells_few:.2f}"
    yield "**500 classes / 20 classes, scores by cell**", f"{cells_many / cells_few:.2f}"
    yield "500 classes / 20 classes, scores by pixel", f"{pixels_many / pixels_few:.2f}"
    yield "**500 classes, scores by pixel / by cell**", f"{pixels_many / cells_many:.2f}"
    for vocabulary in (many, huge):
        with PeakMemory() as peak:
            by_cell(vocabulary)
        yield f"peak memory with {len(vocabulary.texts):,} classes, MB", f"{peak.megabytes:.0f}"


def random_vocabulary(count: int, method: FreedaMethod, device: torch.device) -> Vocabulary:
    generator = torch.Generator().manual_seed(count)
    texts, prototypes = (
        torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=-1).to(device)
        for width in (method.index.manifest.key_dim, method.index.manifest.vector_dim)
    )
    classes = tuple(ClassName(f"class {number}") for number in range(count))
    nothing = np.zeros((count, 0))
    return Vocabulary(classes, (), texts, prototypes, ClassPrototypes(nothing, nothing, nothing))


def class_texts(clip: ClipModel, templates: tuple[str, ...], device: torch.device) -> Iterator[Row]:
    """Embedding class names by tokens that they have, against the length that the tower is made for."""
    names = [item.name for item in class_list("ade20k")]
    prompts = [template.format(name) for name in names for template in templates]
    ids = clip.tokenize(prompts).to(device)

    @torch.inference_mode()
    def full_length() -> torch.Tensor:
        return torch.cat([clip.network.encode_text(part) for part in ids.split(256)]).float()

    difference = float((clip.embed_texts(prompts) - full_length()).abs().max())
    cut, full = fastest([lambda: clip.embed_texts(prompts), full_length], device, 1)
    yield (
        f"**{len(names)} names of ADE20K x 7 templates, all 77 tokens / cut to the texts**",
        f"{full / cut:.1f}",
    )
    yield "cut to the texts, s", f"{cut:.1f}"
    yield "largest difference of an embedding", f"{difference:.0e}"
