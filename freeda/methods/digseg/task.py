"""What DiGSeg learns: the mask of a class that an image shows, and an empty one for others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from freeda.methods.digseg.method import Frozen
from freeda.methods.digseg.sampling import last_step, one_step, pyramid_noise
from freeda.methods.digseg.texts import QueryTexts
from freeda.methods.digseg.unet import SegmentingUNet
from freeda.methods.trained import EmptyImages
from freeda.models.diffusion import encode_latents
from freeda.segmentation.annotations import UNMARKED, AnnotatedImage, AnnotatedImages
from freeda.segmentation.views import random_view

__all__ = ["DigSegTask", "QuerySettings", "draw_masks"]

_LEAST_AREA = 1 / 1024
"""Of an image; smaller masks hardly change its latents."""


@dataclass(frozen=True, kw_only=True)
class QuerySettings:
    """queries: classes asked for per image. absent: share of them that the image does not show.
    jitter: range of the scales at which images are seen.
    """

    queries: int = 4
    absent: float = 0.25
    jitter: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class _Query:
    """name: its number among all names. mask: (H, W), 1 where the class is, -1 elsewhere."""

    name: int
    mask: np.ndarray


class DigSegTask:
    """Trains a `SegmentingUNet` on annotated images, whose segments count as masks of their classes.

    one_step: whether masks are predicted at once; else by denoising.
    """

    name = "digseg"

    def __init__(
        self,
        frozen: Frozen,
        network: SegmentingUNet,
        data: AnnotatedImages,
        settings: QuerySettings,
        *,
        one_step: bool,
        templates: Sequence[str],
    ) -> None:
        self.network = network
        self.figures: Mapping[str, float] = {}
        self._frozen, self._data, self._settings, self._one_step = frozen, data, settings, one_step
        names = [name for item in data.classes for name in item.names]
        first = np.cumsum([0, *(len(item.names) for item in data.classes)])
        self._names = [range(first[n], first[n + 1]) for n in range(len(data.classes))]
        self._texts = QueryTexts.of(frozen.pipeline, frozen.clip, names, network.settings.prompt, templates)
        self._last = last_step(frozen.schedule)
        self._empty = EmptyImages()

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        side, device = self.network.settings.side, self._texts.states.device
        examples = [self._data.annotated(int(number)) for number in numbers]
        views = [random_view(item, side, self._settings.jitter, rng) for item in examples]
        queries = [self._query(view, rng) for view in views for _ in range(self._settings.queries)]
        images = torch.from_numpy(np.stack([view.image for view in views])).to(device)
        images = images.permute(0, 3, 1, 2).float() / 255
        masks = torch.from_numpy(np.stack([query.mask for query in queries])).to(device)
        marked = torch.from_numpy(np.stack([view.segments != UNMARKED for view in views])).to(device)
        repeats = self._settings.queries
        # In the loop's precision: errors of a hundredth of a standard deviation are far below what is learnt.
        with torch.no_grad():
            latents = encode_latents(self._frozen.pipeline, images).float().repeat_interleave(repeats, 0)
            goals = self.network.masks.encode(self._frozen.pipeline, masks)
            grid = (goals.shape[-2], goals.shape[-1])
            cells = functional.adaptive_avg_pool2d(marked[:, None].float(), grid)
            known = (cells == 1).float().repeat_interleave(repeats, 0)
        self._empty.count(len(views), empty=not known.any())
        texts = self._texts[[query.name for query in queries]]
        found, wanted = self._prediction(latents, goals, texts, rng)
        with torch.autocast(device.type, enabled=False):
            squares = (found.float() - wanted).square() * known
            total = squares.sum() / (known.sum() * goals.shape[1]).clamp(min=1)
        present = torch.tensor([(query.mask > 0).any() for query in queries], device=device)
        self._note_figures(total, found, goals, present)
        return total

    def _prediction(
        self, images: torch.Tensor, goals: torch.Tensor, texts: QueryTexts, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the network gives, and what it should: latents of masks, or their velocities."""
        if self._one_step:
            return one_step(self.network, images, texts.states, texts.embeddings, self._last), goals
        steps = torch.from_numpy(rng.integers(0, self._last + 1, len(goals)))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = pyramid_noise(tuple(goals.shape), steps, self._last, generator).to(goals)  # type: ignore[arg-type]
        steps = steps.to(goals.device)
        schedule = self._frozen.schedule
        noisy = schedule.add_noise(goals, noise, steps)
        found = self.network(images, noisy, steps, texts.states, texts.embeddings)
        return found, schedule.get_velocity(goals, noise, steps)

    def _query(self, view: AnnotatedImage, rng: np.random.Generator) -> _Query:
        """A class that the view shows, or now and then one that it does not, by any of its names."""
        masks = draw_masks(view)
        shown = {*masks, *view.labels}
        missing = [label for label in range(len(self._names)) if label not in shown]
        if masks and (rng.random() >= self._settings.absent or not missing):
            label = list(masks)[int(rng.integers(len(masks)))]
            mask = masks[label]
        else:
            choice = missing or list(range(len(self._names)))
            label, mask = choice[int(rng.integers(len(choice)))], np.zeros(view.segments.shape, bool)
        name = int(rng.choice(self._names[label]))
        return _Query(name, np.where(mask, 1, -1).astype(np.float32))

    @torch.no_grad()
    def _note_figures(
        self, total: torch.Tensor, found: torch.Tensor, goals: torch.Tensor, present: torch.Tensor
    ) -> None:
        iou = math.nan
        if self._one_step and present.any():
            guess, truth = (self.network.masks.read(part.float()) > 0 for part in (found, goals))
            both, either = (guess & truth).sum((1, 2)), (guess | truth).sum((1, 2))
            iou = float((both / either.clamp(min=1))[present].mean())
        self.figures = {"latents": float(total.detach()), "iou_of_present": iou}


def draw_masks(view: AnnotatedImage) -> dict[int, np.ndarray]:
    """The (H, W) mask of each class that can be seen in a view, its segments as one."""
    labels = view.label_map
    areas = np.bincount(labels[labels >= 0])
    return {int(n): labels == n for n in np.flatnonzero(areas >= max(1, _LEAST_AREA * labels.size))}
