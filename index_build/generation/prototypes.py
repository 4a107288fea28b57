"""From captions with nouns to prototypes, in one process: generate, localise, pool, embed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from freeda.errors import ConfigError
from freeda.models.attention import DegenerateMapError, localize
from freeda.models.backbone import Backbone, load_backbone
from freeda.models.clip import ClipModel, load_clip
from freeda.models.diffusion import load_generator, pipeline_fingerprint
from freeda.models.loading import choose_device, chosen_dtype, default_dtype
from freeda.presets import Preset
from freeda.records import NounSpan, Prototype, Reject, TaggedCaption
from freeda.segmentation.regions import pool_mask
from freeda.segmentation.thumbnails import thumbnail
from index_build.config import BuildConfig, caption_seed
from index_build.generation.outcome import ShardOutcome
from index_build.generation.synthesis import Illustrated, TokenizedCaption, illustrate, is_blank, tokenize
from index_build.generation.textual_keys import require_keys, textual_keys

__all__ = ["BuildModels", "build_prototypes", "load_models"]


@dataclass(frozen=True)
class BuildModels:
    """The three models of a preset. pipeline_weights: the diffusion pipeline's fingerprint."""

    pipeline: Any
    pipeline_weights: str
    clip: ClipModel
    backbone: Backbone

    def fingerprints(self) -> dict[str, str]:
        return {
            "diffusion": self.pipeline_weights,
            "clip": self.clip.fingerprint(),
            "backbone": self.backbone.fingerprint(),
        }

    def describe(self) -> dict[str, str]:
        """What must agree on all workers and between a run and its resumption."""
        return self.fingerprints() | {"precision": str(self.pipeline.dtype).removeprefix("torch.")}


def load_models(preset: Preset, device: str = "auto") -> BuildModels:
    """Loads a preset's models, the diffusion model at the precision that the preset names.

    Raises `ConfigError`, `ModelNotFoundError`.
    """
    torch_device = choose_device(device)
    dtype, generation = default_dtype(torch_device), chosen_dtype(preset.synthesis.precision, torch_device)
    # CLIP comes first: a preset that it does not suit is told before gigabytes of a diffusion model are read.
    clip = load_clip(preset.model_ids("clip"), torch_device, dtype)
    require_keys(clip, preset.localization.key)
    pipeline = load_generator(preset.model_ids("diffusion"), torch_device, generation)
    if preset.localization.completion and not hasattr(pipeline, "unet"):
        raise ConfigError(
            f"localization.completion is {preset.localization.completion}, which needs a UNet, and the "
            f"diffusion model is a transformer; choose completion = 0"
        )
    identified = pipeline
    if generation is torch.bfloat16:  # it has fewer digits than a fingerprint reads
        identified = load_generator(preset.model_ids("diffusion"), torch.device("cpu"), torch.float32)
    return BuildModels(
        pipeline=pipeline,
        pipeline_weights=pipeline_fingerprint(identified),
        clip=clip,
        backbone=load_backbone(preset.model_ids("backbone"), torch_device, dtype),
    )


def build_prototypes(
    captions: Sequence[TaggedCaption],
    models: BuildModels,
    config: BuildConfig,
    *,
    overlap: bool | None = None,
) -> ShardOutcome:
    """Every noun of every caption becomes a prototype or a reject with its reason.

    overlap: whether images are localised and pooled while the next ones are generated; None does so on an
        NVIDIA GPU only, for a CPU's cores are busy anyway.
    """
    outcome = ShardOutcome()
    with outcome.timed("tokens"):
        tokenized = list(_tokenize_all(captions, models, config, outcome))
    preset = config.preset
    batches = illustrate(models.pipeline, tokenized, preset.synthesis, preset.localization)
    if overlap is None:
        overlap = models.backbone.device.type == "cuda"
    last: Future[None] | None = None
    with ThreadPoolExecutor(1, "freeda-pictures") as thread:
        while (batch := _next_timed(batches, outcome)) is not None:
            if last is not None:
                last.result()
            outcome.images += len(batch)
            if overlap:
                last = thread.submit(_add_batch, batch, models, config, outcome)
            else:
                _add_batch(batch, models, config, outcome)
        if last is not None:
            last.result()
    return outcome


def _next_timed(batches: Iterator[list[Illustrated]], outcome: ShardOutcome) -> list[Illustrated] | None:
    with outcome.timed("generation"):
        return next(batches, None)


def _tokenize_all(
    captions: Sequence[TaggedCaption], models: BuildModels, config: BuildConfig, outcome: ShardOutcome
) -> Iterator[TokenizedCaption]:
    for tagged in captions:
        seed = caption_seed(config.seed, tagged.caption.id)
        item, beyond = tokenize(models.pipeline, tagged.caption, tagged.spans, seed)
        outcome.rejects += beyond
        if item is not None:
            yield item


def _add_batch(
    batch: Sequence[Illustrated], models: BuildModels, config: BuildConfig, outcome: ShardOutcome
) -> None:
    usable = []
    for item in batch:
        if is_blank(item.picture):
            outcome.rejects += [_reject(item, span, "picture is blank") for span in item.source.spans]
        else:
            usable.append(item)
    if not usable:
        return
    with outcome.timed("features"):
        features = _dense_features(usable, models.backbone, config)
    with outcome.timed("keys"):
        keys = textual_keys(
            models.clip,
            [(item.source.caption.text, item.source.spans) for item in usable],
            config.preset.localization.key,
            config.preset.segmentation.templates,
        )
    for item, feature, noun_keys in zip(usable, features, keys, strict=True):
        _add_picture(item, feature, noun_keys, config, outcome)


def _dense_features(batch: Sequence[Illustrated], backbone: Backbone, config: BuildConfig) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack([item.picture.pixels for item in batch]))
    images = pixels.permute(0, 3, 1, 2).float() / 255
    return backbone.dense_features(images, config.preset.segmentation.dense_size)


def _add_picture(
    item: Illustrated,
    features: torch.Tensor,
    keys: Sequence[np.ndarray | None],
    config: BuildConfig,
    outcome: ShardOutcome,
) -> None:
    source = item.source
    with outcome.timed("localisation"):
        masks: dict[str, np.ndarray] = {}
        peaks: dict[str, float] = {}
        for span, key, noun_map in zip(source.spans, keys, item.picture.noun_maps, strict=True):
            if key is None:
                outcome.rejects.append(_reject(item, span, "noun not among CLIP's tokens"))
                continue
            try:
                mask, peak = _localize(noun_map, item, config)
            except DegenerateMapError as error:
                outcome.rejects.append(_reject(item, span, str(error)))
                continue
            vector = pool_mask(features, mask).cpu().numpy()
            if not np.isfinite(vector.astype(np.float16)).all():
                outcome.rejects.append(_reject(item, span, "feature is not finite"))
                continue
            picture = thumbnail(item.picture.pixels, mask, config.thumbnail)
            outcome.prototypes.append(_prototype(item, span, key, vector, mask, peak, picture))
            masks[span.noun], peaks[span.noun] = mask, peak
        if masks:
            outcome.overlaps.add(masks)
            outcome.samples.offer(source.caption.text, item.picture.pixels, masks, peaks)


def _localize(noun_map: np.ndarray, item: Illustrated, config: BuildConfig) -> tuple[np.ndarray, float]:
    chosen = config.preset.localization
    return localize(
        noun_map,
        (item.picture.pixels.shape[0], item.picture.pixels.shape[1]),
        threshold=chosen.threshold,
        min_area=chosen.min_area,
        max_area=chosen.max_area,
        min_peak=chosen.min_peak,
    )


def _prototype(
    item: Illustrated,
    span: NounSpan,
    key: np.ndarray,
    vector: np.ndarray,
    mask: np.ndarray,
    peak: float,
    picture: bytes,
) -> Prototype:
    caption = item.source.caption
    return Prototype(
        id=f"{caption.id}/{span.noun}",
        noun=span.noun,
        caption_id=caption.id,
        caption=caption.text,
        key=key,
        vector=vector.astype(np.float32),
        area=float(mask.mean()),
        peak=peak,
        seed=item.source.seed,
        thumbnail=picture,
    )


def _reject(item: Illustrated, span: NounSpan, reason: str) -> Reject:
    caption = item.source.caption
    return Reject(caption_id=caption.id, caption=caption.text, noun=span.noun, reason=reason)
