"""FreeDA (Barsellotti et al., CVPR 2024): segmentation by retrieval from a prototype index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from freeda.errors import ConfigError, DatasetError, UntrustedIndexError, printable
from freeda.index.reader import PrototypeIndex
from freeda.methods.base import SETTING_NAMES, Runtime, as_preset, require_batch, require_switch
from freeda.methods.freeda import own_prototypes
from freeda.methods.freeda.concepts import parse_concepts
from freeda.methods.freeda.explain import explain
from freeda.methods.freeda.method import FreedaMethod
from freeda.methods.freeda.own_prototypes import Added
from freeda.methods.freeda.region_finders import region_finder
from freeda.methods.freeda.vocabulary import Vocabulary
from freeda.methods.freeda.windows import EncodedImage
from freeda.methods.segmenter import MethodSegmenter
from freeda.models.backbone import load_backbone
from freeda.models.clip import load_clip
from freeda.presets import Preset
from freeda.presets.recipes import load_recipe
from freeda.presets.settings import REGIONS, FreedaSettings
from freeda.presets.toml import changed
from freeda.presets.trust import known_models
from freeda.records import Prototype, Reject
from freeda.segmentation.marked_images import MarkedImage
from freeda.segmentation.windows import WindowedImage

__all__ = ["add_images", "load", "with_images"]

FreedaSegmenter = MethodSegmenter[WindowedImage, EncodedImage, Vocabulary]


def load(
    index: str | Path = "toy",
    *,
    preset: str | Preset | None = None,
    recipe: str = "default",
    background: bool = False,
    trust_models: bool = False,
    index_device: str = "auto",
    batch: int = 8,
    **options: Any,
) -> FreedaSegmenter:
    """Opens an index and the models it was built with.

    index_device: where keys are searched: "cpu", "cuda", or "auto" for a GPU where the models are on one and
        FAISS sees one that takes them.
    trust_models: whether to load models that the index names and no preset of this machine does.
    preset: where the models and settings are taken from instead of the index.
    recipe: "default", or "paper" for the released code's algorithm.
    background: whether pixels of none of the classes are labelled as background.
    batch: windows that pass the models at once.
    options: of the `Runtime`, such as `device`; and single fields of `FreedaSettings`, such as
        `neighbors=50`; an inner one as `superpixels.scale`; the score that a class must exceed against the
        background as `threshold`. `background_concepts` may be a text: "sky; wall", "index" for the index's
        other nouns, "usual" for what surrounds things in photographs, or "none".
    """
    require_switch(background)
    require_batch(batch)
    runtime = Runtime.taken_from(options)
    device = runtime.torch_device
    searching = "cpu" if index_device == "auto" and device.type != "cuda" else index_device
    opened = PrototypeIndex.open(index, device=searching)
    chosen = as_preset(preset) if preset else _known_preset(opened, options.get("regions"), trust_models)
    settings = _settings(load_recipe(recipe, chosen), options, background)
    models = _models(chosen, settings, device, runtime.dtype)
    method = FreedaMethod(
        opened, **models, settings=settings, background=background, batch=batch, native=runtime.native
    )
    return MethodSegmenter(
        method, explain=explain, size_of=lambda image: len(image.areas), threads=runtime.threads
    )


def _models(
    preset: Preset, settings: FreedaSettings, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """What a `FreedaMethod` sees images and names with."""
    return {
        "clip": load_clip(preset.model_ids("clip"), device, dtype),
        "backbone": load_backbone(preset.model_ids("backbone"), device, dtype),
        "find_regions": region_finder(settings, preset, device, dtype),
    }


def add_images(
    index: str | Path,
    images: Iterable[MarkedImage | Reject],
    out: str | Path,
    *,
    alone: bool = False,
    overwrite: bool = False,
    on_image: Callable[[int], object] = lambda done: None,
    **options: Any,
) -> Added:
    """Writes the index `out`: an index and the prototypes of your own images, in which things are marked.

    alone: whether it holds your images' prototypes only; they are made with the index's models.
    on_image: called after each image, with how many are done.
    options: as of `load`.
    Raises `DatasetError` where no mark gives a prototype, and `OutputError`.
    """
    method = load(index, **options).method
    assert isinstance(method, FreedaMethod)
    return own_prototypes.add_images(method, images, out, alone=alone, overwrite=overwrite, on_image=on_image)


def with_images(segmenter: FreedaSegmenter, images: Iterable[MarkedImage]) -> FreedaSegmenter:
    """A segmenter that also looks for what is marked in some images, as if its index held them; nothing is
    written, and models are shared.

    A mark that is given twice counts once.
    Raises `DatasetError` for a mark that gives no prototype, and `ConfigError` for a method that does not
    retrieve, or settings and indexes with which marks would change nothing.
    """
    method = segmenter.method
    if not isinstance(method, FreedaMethod):
        raise ConfigError("marks are for methods that retrieve; choose freeda, or leave them out")
    built, prototypes = method.index.preset.segmentation, list[Prototype]()
    for item in (found for image in images for found in own_prototypes.of_image(method, image, built)):
        if isinstance(item, Reject):
            what = f"'{item.noun}' in {item.caption_id}" if item.noun else item.caption_id
            raise DatasetError(f"{what} gives no prototype: {item.reason}; mark more of it, or leave it out")
        prototypes.append(item)
    return segmenter.with_method(method.with_own(prototypes))


def _known_preset(index: PrototypeIndex, regions: str | None, trust: bool) -> Preset:
    """An index's preset. regions: those asked for; an index, which is anybody's, cannot name a function."""
    found, name = index.preset, index.folder.name
    regions = regions or found.segmentation.regions
    if regions == found.segmentation.regions and regions not in REGIONS:
        raise UntrustedIndexError(
            f"index '{name}' names a function for its regions, {printable(regions)}; if it is yours, name it "
            f"in a preset file (--preset FILE)"
        )
    roles = ("clip", "backbone", *(["regions"] if regions == "proposals" else []))
    return known_models(found, [role for role in roles if role in found.models], name, trust=trust)


def _settings(base: FreedaSettings, changes: dict[str, Any], background: bool) -> FreedaSettings:
    if "background_concepts" not in changes:
        return changed(base, changes, "method freeda", SETTING_NAMES)
    if not background:
        raise ConfigError(
            "background concepts were given, but no background is asked for; add background (--background), "
            "or evaluate a data set that has one"
        )
    concepts: str | Sequence[str] = changes["background_concepts"]
    parsed = {**changes, "background_concepts": parse_concepts(concepts)}
    return changed(base, parsed, "method freeda", SETTING_NAMES)
