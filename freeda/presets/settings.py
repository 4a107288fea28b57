"""Everything that can be chosen, as frozen records that check themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from freeda.errors import ConfigError

__all__ = [
    "PRECISIONS",
    "TEMPLATES",
    "KeyMode",
    "Localization",
    "Models",
    "Pooling",
    "Precision",
    "Preset",
    "Retrieval",
    "Segmentation",
    "Superpixels",
    "Synthesis",
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
Retrieval = Literal["class", "region"]


@dataclass(frozen=True, kw_only=True)
class Models:
    """Three models, each a tuple of ids tried in order; an id is a local folder, a hub's name, or
    `package:PATH` for a folder inside this package.

    diffusion: what `DiffusionPipeline.from_pretrained` loads.
    clip: an open_clip model, `ARCHITECTURE@PRETRAINED` or `hf-hub:ORG/NAME`.
    backbone: a timm ViT or XCiT.
    """

    diffusion: tuple[str, ...]
    clip: tuple[str, ...]
    backbone: tuple[str, ...]

    def __post_init__(self) -> None:
        for item in fields(self):
            ids = getattr(self, item.name)
            if (
                not isinstance(ids, tuple)
                or not ids
                or not all(isinstance(name, str) and name for name in ids)
            ):
                raise ConfigError(f"models.{item.name} is {ids!r}; give a list of at least one id or folder")


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """How pictures are generated. height, width: pixels; steps: denoising steps;
    guidance_scale: classifier-free guidance, 1 or less switches it off; precision: of the diffusion
    model, "auto" is half on an NVIDIA GPU and single elsewhere.
    """

    height: int
    width: int
    steps: int
    guidance_scale: float
    batch: int = 8
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        _require_positive(self, "height", "width", "steps", "batch")
        _require(self.precision in PRECISIONS, "synthesis.precision", self.precision, ", ".join(PRECISIONS))
        guidance = self.guidance_scale
        _require(isinstance(guidance, int | float), "synthesis.guidance_scale", guidance, "a number")


@dataclass(frozen=True, kw_only=True)
class Localization:
    """How attention becomes a mask and a key.

    threshold: on the min-max normalised map, (0, 1); min_area, max_area: accepted share of the
    picture; min_peak: least ratio of a map's peak to its mean, below which it points at nothing.
    """

    threshold: float = 0.4
    min_area: float = 0.005
    max_area: float = 0.95
    min_peak: float = 1.3
    key: KeyMode = "context"

    def __post_init__(self) -> None:
        _require(0 < self.threshold < 1, "localization.threshold", self.threshold, "between 0 and 1")
        _require(
            0 <= self.min_area < self.max_area <= 1,
            "localization.min_area and max_area",
            (self.min_area, self.max_area),
            "rising within 0 .. 1",
        )
        _require(
            self.key in ("context", "template", "blend"),
            "localization.key",
            self.key,
            "context, template or blend",
        )


@dataclass(frozen=True, kw_only=True)
class Superpixels:
    """Felzenszwalb & Huttenlocher's graph segmentation on RGB in [0, 1]; min_size in pixels.

    algorithm: whose program of it runs, OpenCV's ("graph") or scikit-image's ("felzenszwalb"), which
    the released FreeDA used and which is slower.
    """

    scale: float = 100.0
    sigma: float = 1.0
    min_size: int = 20
    algorithm: Literal["graph", "felzenszwalb"] = "graph"

    def __post_init__(self) -> None:
        _require(
            self.algorithm in ("graph", "felzenszwalb"),
            "superpixels.algorithm",
            self.algorithm,
            "graph or felzenszwalb",
        )
        _require_positive(self, "min_size")
        _require(isinstance(self.scale, int | float) and self.scale > 0, "scale", self.scale, "above 0")
        _require(isinstance(self.sigma, int | float) and self.sigma >= 0, "sigma", self.sigma, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """The online stage's numbers (FreeDA, section 3.2 and its released code).

    short_side, window, stride: pixels; dense_size: side the window is resized to for the backbone;
    neighbors: k of retrieval; neighbor_margin: left out of them are prototypes whose key's cosine to the
    class is lower than the nearest one's by more than this, 2 for none; local_weight: share of the local
    score, the rest is global; background: the constant score of the background channel;
    background_concepts: what else competes as background, retrieved and scored as classes are; pooling:
    how masks meet the token grid, "area" by shares of pixels, "smooth" with each pixel shared among the
    tokens around it, "bilinear" as in the released code; merge_above: neighbouring superpixels merge
    whose features' cosine is higher, 1 for none; pamr: iterations of pixel-adaptive mask refinement, 0
    for none; retrieval: what asks the index, each "class" once by its text (FreeDA), or every "region" by
    its looks, scored by the mean key of its `region_neighbors` nearest prototypes (after CorrCLIP's
    retrieval).
    """

    short_side: int
    window: int
    stride: int
    dense_size: int
    neighbors: int = 350
    neighbor_margin: float = 2.0
    local_weight: float = 0.8
    background: float = 0.4
    background_concepts: tuple[str, ...] = ()
    pooling: Pooling = "area"
    merge_above: float = 1.0
    pamr: int = 0
    retrieval: Retrieval = "class"
    region_neighbors: int = 20
    templates: tuple[str, ...] = TEMPLATES
    superpixels: Superpixels = field(default_factory=Superpixels)

    def __post_init__(self) -> None:
        _require_positive(
            self, "short_side", "window", "stride", "dense_size", "neighbors", "region_neighbors"
        )
        _require(
            self.stride <= self.window,
            "segmentation.stride",
            self.stride,
            f"at most the window, {self.window}",
        )
        _require(
            self.pooling in ("area", "smooth", "bilinear"),
            "segmentation.pooling",
            self.pooling,
            "area, smooth or bilinear",
        )
        _require(
            isinstance(self.background, int | float), "segmentation.background", self.background, "a number"
        )
        _require(
            isinstance(self.background_concepts, tuple)
            and all(isinstance(name, str) and name.strip() for name in self.background_concepts),
            "segmentation.background_concepts",
            self.background_concepts,
            "a list of names",
        )
        _require(
            self.retrieval in ("class", "region"), "segmentation.retrieval", self.retrieval, "class or region"
        )
        _require(
            isinstance(self.neighbor_margin, int | float) and self.neighbor_margin >= 0,
            "segmentation.neighbor_margin",
            self.neighbor_margin,
            "0 or more",
        )
        _require(
            isinstance(self.merge_above, int | float) and 0 < self.merge_above <= 1,
            "segmentation.merge_above",
            self.merge_above,
            "above 0, at most 1",
        )
        _require(isinstance(self.pamr, int) and self.pamr >= 0, "segmentation.pamr", self.pamr, "0 or more")
        _require(
            0 <= self.local_weight <= 1, "segmentation.local_weight", self.local_weight, "between 0 and 1"
        )
        _require(
            bool(self.templates) and all("{}" in t for t in self.templates),
            "segmentation.templates",
            self.templates,
            "texts with a {} each",
        )


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A complete choice: which models, and how each stage uses them."""

    name: str
    description: str
    models: Models
    synthesis: Synthesis
    segmentation: Segmentation
    localization: Localization = field(default_factory=Localization)
    licenses: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as a TOML file would hold it."""
        return asdict(self)


def _require(holds: bool, what: str, found: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{what} is {found!r}; expected {expected}")


def _require_positive(record: object, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        where = f"{type(record).__name__.lower()}.{name}"
        _require(isinstance(value, int) and value > 0, where, value, "a whole number above 0")
