"""Everything that can be set, as frozen records that check their own values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import PurePath
from typing import Any, Final, Literal, get_args

from freeda.errors import ConfigError

__all__ = [
    "COARSEST",
    "PRECISIONS",
    "REGIONS",
    "TEMPLATES",
    "FreedaSettings",
    "KeyMode",
    "Localization",
    "Pooling",
    "Precision",
    "Preset",
    "Resizing",
    "Retrieval",
    "BackgroundConcepts",
    "FROM_INDEX",
    "LOCAL_PREFIX",
    "Superpixels",
    "Synthesis",
    "is_number",
    "require",
    "require_positive",
]

TEMPLATES = (
    "itap of a {}.",
    "a bad photo of a {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven prompts of CLIP's authors that FreeDA averages over."""

KeyMode = Literal["context", "template", "blend"]
Pooling = Literal["area", "smooth", "bilinear"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Resizing = Literal["antialiased", "plain"]
Metric = Literal["cosine", "whitened"]
Retrieval = Literal["class", "region"]
REGIONS = ("superpixels", "proposals")
_IMPORTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
FROM_INDEX: Final = "index"
LOCAL_PREFIX: Final = "local:"
"""Begins the id of a model that lies in a folder of the machine that an index was built on."""
BackgroundConcepts = tuple[str, ...] | Literal["index"]


def require(holds: bool, what: str, found: object, expected: str) -> None:
    """Raises `ConfigError` unless `holds`: what was set, what it is, and what was expected."""
    if not holds:
        raise ConfigError(f"{what} is {found!r}; expected {expected}")


def is_number(
    value: object, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
) -> bool:
    """Whether a value is a number (not a truth value) of at least `least`, above `above`, at most `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return least <= value <= most and value > above


def require_positive(record: object, section: str, *names: str) -> None:
    """Raises `ConfigError` unless these fields of a record are whole numbers above 0."""
    for name in names:
        value = getattr(record, name)
        require(isinstance(value, int) and value > 0, f"{section}.{name}", value, "a whole number above 0")


COARSEST = 8
"""Attention on grids of an eighth of the latent's side or less is left out, as DAAM does."""
_LARGEST_SIDE = 8192
"""Pixels of a side of what passes a model at once: an index may be anybody's, and ask for too much."""


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How images are generated.

    height, width: pixels.
    steps: denoising steps.
    guidance_scale: of classifier-free guidance; 1 or less turns it off.
    batch: images generated at once.
    precision: of the diffusion model; "auto" is float16 on an NVIDIA GPU, float32 elsewhere.
    """

    height: int
    width: int
    steps: int
    guidance_scale: float
    batch: int = 8
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        require_positive(self, "synthesis", "height", "width", "steps", "batch")
        require(self.precision in PRECISIONS, "synthesis.precision", self.precision, ", ".join(PRECISIONS))
        guidance = self.guidance_scale
        require(is_number(guidance), "synthesis.guidance_scale", guidance, "a number")


@dataclass(frozen=True, kw_only=True)
class Localization:
    """How an attention map becomes a mask, and a noun a key.

    threshold: on the min-max normalised map, (0, 1).
    coarsest: attention on grids of the latent's side divided by this, or less, is left out.
    completion: share of a map's completion by self-attention, 0 .. 1: at every position, the map's mean over
        those that the position attends to. 0 for none.
    min_area, max_area: accepted share of the image inside the mask, 0 .. 1.
    min_peak: least ratio of a map's maximum to its mean; a map below it points at nothing.
    key: how a noun is embedded: inside its caption, in prompt templates, or the blend of both.
    """

    threshold: float = 0.4
    coarsest: int = COARSEST
    completion: float = 0.0
    min_area: float = 0.005
    max_area: float = 0.95
    min_peak: float = 1.3
    key: KeyMode = "context"

    def __post_init__(self) -> None:
        areas = (self.min_area, self.max_area)
        inside = is_number(self.threshold, above=0) and self.threshold < 1
        require(inside, "localization.threshold", self.threshold, "between 0 and 1")
        require_positive(self, "localization", "coarsest")
        share = is_number(self.completion, least=0, most=1)
        require(share, "localization.completion", self.completion, "between 0 and 1")
        require(
            all(map(is_number, areas)) and 0 <= areas[0] < areas[1] <= 1,
            "localization.min_area and max_area",
            areas,
            "the first below the second, within 0 .. 1",
        )
        modes = get_args(KeyMode)
        require(self.key in modes, "localization.key", self.key, _or(modes))


@dataclass(frozen=True, kw_only=True)
class Superpixels:
    """Felzenszwalb and Huttenlocher's graph segmentation, on RGB in [0, 1].

    scale: larger values give larger superpixels.
    sigma: width of the Gaussian blur before, in pixels.
    min_size: smallest superpixel, in pixels.
    algorithm: "graph" is OpenCV's implementation; "felzenszwalb" is scikit-image's, which the released FreeDA
        used and which is slower.
    """

    scale: float = 100.0
    sigma: float = 1.0
    min_size: int = 20
    algorithm: Literal["graph", "felzenszwalb"] = "graph"

    def __post_init__(self) -> None:
        known = ("graph", "felzenszwalb")
        require(self.algorithm in known, "superpixels.algorithm", self.algorithm, _or(known))
        require_positive(self, "superpixels", "min_size")
        require(is_number(self.scale, above=0), "superpixels.scale", self.scale, "above 0")
        require(is_number(self.sigma, least=0), "superpixels.sigma", self.sigma, "0 or more")


@dataclass(frozen=True, kw_only=True)
class FreedaSettings:
    """FreeDA's online stage (section 3.2 of the paper, and the released code): `[segmentation]` of a preset.

    short_side: pixels to which an image's shorter side is resized.
    window, stride: of the sliding window, in pixels.
    dense_size: pixels to which a window's shorter side is resized for the backbone.
    neighbors: prototypes retrieved per class (k).
    neighbor_margin: of these, prototypes are left out whose key's cosine to the class is lower than the
        nearest one's by more than this; 2 leaves none out.
    own_weight: share of photographs in a class's prototype, where the index has some of that name beside
        generated pictures; for retrieval "class".
    local_weight: share of the local score; the rest is the global score.
    background: score that a class must exceed; None for no such constant.
    background_concepts: names that compete with the classes as background, retrieved and scored as classes
        are; "index" for the index's own nouns that stand for none of the classes.
    pooling: how a mask weighs the tokens: "area" by the share of its pixels in each token's cell, "smooth"
        with every pixel shared by the four tokens around it, "bilinear" as in the released code.
    merge_above: neighbouring superpixels are merged while their features' cosine is above this; 1 merges
        none.
    color_weight: how much colour counts, beside features, in which of the merged regions beside it a
        superpixel ends (`freeda.segmentation.reassigning`); 0 leaves all where merging put them. Of no
        effect where none are merged.
    pamr: iterations of pixel-adaptive mask refinement; 0 for none.
    metric: how a region's feature is compared with prototypes, for retrieval "class": "cosine" (FreeDA), or
        "whitened", by the cosine after whitening with what prototypes of one noun differ in
        (`freeda.methods.freeda.whitening`).
    shrinkage: of that whitening: what is added to all variances, as a share of their mean.
    compactness_weight: how much of the similarity that a class's prototypes have to one another is taken from
        a region's similarity to their mean, for retrieval "class" (`freeda.methods.freeda.compactness`).
    retrieval: "class": each class retrieves prototypes by its text, once (FreeDA); "region": each region
        retrieves prototypes by its feature and is scored by their mean key.
    region_neighbors: prototypes retrieved per region, for retrieval "region".
    templates: prompts with a {} for the class name.
    synonyms: whether a class's text embedding is the mean over all its names; else it is the first name's.
    resizing: how images are resized: "antialiased", or "plain" as in the released code, by OpenCV's bilinear
        interpolation, then bilinearly for the backbone and bicubically for CLIP.
    regions: the class-agnostic regions to begin with: "superpixels"; "proposals", masks that the preset's
        model "regions" proposes, and superpixels in their gaps; or "module:function", a function of yours
        (`freeda.methods.freeda.method.FindRegions`).
    proposal_points: along a side of the grid at which a model like SAM is asked.
    superpixels: how superpixels are found.
    """

    short_side: int
    window: int
    stride: int
    dense_size: int
    neighbors: int = 350
    neighbor_margin: float = 2.0
    own_weight: float = 0.8
    local_weight: float = 0.8
    background: float | None = None
    background_concepts: BackgroundConcepts = FROM_INDEX
    pooling: Pooling = "area"
    merge_above: float = 1.0
    color_weight: float = 0.0
    pamr: int = 0
    metric: Metric = "cosine"
    shrinkage: float = 0.1
    compactness_weight: float = 0.0
    retrieval: Retrieval = "class"
    region_neighbors: int = 20
    templates: tuple[str, ...] = TEMPLATES
    synonyms: bool = True
    resizing: Resizing = "antialiased"
    regions: str = "superpixels"
    proposal_points: int = 32
    superpixels: Superpixels = field(default_factory=Superpixels)

    def __post_init__(self) -> None:
        counts = ("neighbors", "region_neighbors", "proposal_points")
        require_positive(self, "segmentation", "short_side", "window", "stride", "dense_size", *counts)
        for name in ("short_side", "window", "dense_size"):
            self._require(name, getattr(self, name) <= _LARGEST_SIDE, f"at most {_LARGEST_SIDE:,} pixels")
        self._require("stride", self.stride <= self.window, f"at most the window, {self.window}")
        self._require(
            "stride", 16 * self.stride >= self.window, f"at least a 16th of {self.window}, the window"
        )
        self._require("neighbor_margin", is_number(self.neighbor_margin, least=0), "0 or more")
        for name in ("local_weight", "own_weight", "compactness_weight"):
            self._require(name, is_number(getattr(self, name), least=0, most=1), "between 0 and 1")
        self._require("background", self.background is None or is_number(self.background), "a number")
        concepts = self.background_concepts
        known = concepts == FROM_INDEX or _are_names(concepts)
        self._require("background_concepts", known, f'a list of names, or "{FROM_INDEX}"')
        self._require("pooling", self.pooling in get_args(Pooling), _or(get_args(Pooling)))
        self._require("merge_above", is_number(self.merge_above, above=0, most=1), "above 0, at most 1")
        self._require("color_weight", is_number(self.color_weight, least=0), "0 or more")
        self._require("pamr", isinstance(self.pamr, int) and 0 <= self.pamr <= 100, "0 .. 100")
        self._require("metric", self.metric in get_args(Metric), _or(get_args(Metric)))
        self._require("shrinkage", is_number(self.shrinkage, above=0), "above 0")
        self._require("retrieval", self.retrieval in get_args(Retrieval), _or(get_args(Retrieval)))
        own = isinstance(self.regions, str) and _IMPORTED.fullmatch(self.regions) is not None
        known = self.regions in REGIONS or own
        self._require("regions", known, "superpixels, proposals, or a function as module:function")
        self._require("synonyms", isinstance(self.synonyms, bool), "true or false")
        self._require("resizing", self.resizing in get_args(Resizing), _or(get_args(Resizing)))
        prompts = _are_names(self.templates) and all("{}" in prompt for prompt in self.templates)
        self._require("templates", bool(self.templates) and prompts, "texts, each with a {}")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        require(holds, f"segmentation.{name}", getattr(self, name), expected)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A complete choice: which models, and how each stage uses them.

    models: ids by role, tried in order. The roles are "diffusion" (what `DiffusionPipeline.from_pretrained`
        loads), "clip" (an open_clip model: `ARCHITECTURE@PRETRAINED` or `hf-hub:ORG/NAME`), "backbone" (a
        timm ViT or XCiT), and others that a method needs. An id is a hub's name, a local folder, or
        `package:PATH` for a folder inside this package.
    synthesis, localization: the offline stage.
    segmentation: FreeDA's online stage; the offline stage reads `dense_size` and `templates` of it.
    methods: settings of other methods, by method name.
    licenses: by role.
    """

    name: str
    description: str
    models: Mapping[str, tuple[str, ...]]
    synthesis: Synthesis
    segmentation: FreedaSettings
    localization: Localization = field(default_factory=Localization)
    licenses: Mapping[str, str] = field(default_factory=dict)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for role, ids in self.models.items():
            named = isinstance(ids, tuple) and bool(ids) and _are_names(ids)
            require(named, f"models.{role}", ids, "a list of at least one id or folder")
        for method, settings in self.methods.items():
            require(isinstance(settings, Mapping), f"methods.{method}", settings, "a table")

    def model_ids(self, role: str) -> tuple[str, ...]:
        """Ids of the model of that role, tried in order; raises `ConfigError` where the preset has none."""
        if role not in self.models:
            known = ", ".join(self.models)
            raise ConfigError(
                f"preset '{self.name}' has no {role} model, only {known}; add `{role} = [...]` "
                f"to its [models]"
            )
        return self.models[role]

    def shareable(self) -> Preset:
        """The preset without the paths of this machine: a model in a folder becomes `local:NAME`.

        Elsewhere it is found by the name of the preset, in a preset of that machine.
        """
        named = {role: tuple(map(_shareable, ids)) for role, ids in self.models.items()}
        return replace(self, models=named)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as a TOML file holds it; an empty table of other methods' settings is left out."""
        data = asdict(self)
        if not self.methods:
            del data["methods"]
        return data


def _shareable(model_id: str) -> str:
    is_path = model_id.startswith((".", "~", "/")) or PurePath(model_id).is_absolute()
    return f"{LOCAL_PREFIX}{PurePath(model_id).name}" if is_path else model_id


def _or(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _are_names(values: object) -> bool:
    return isinstance(values, tuple) and all(isinstance(name, str) and bool(name.strip()) for name in values)
