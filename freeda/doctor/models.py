"""Which presets' weights are on this machine, and whether the toy ones give the answer that they should."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from freeda.doctor.findings import Finding, checked
from freeda.errors import FreedaError
from freeda.presets.builtin import PRESETS, load_preset, own_presets
from freeda.presets.settings import Preset

__all__ = ["model_findings"]

_ENOUGH = 0.95
"""Share of an example scene's pixels that the toy preset labels as the scene was drawn."""
_ROLES = ("diffusion", "clip", "backbone")
_DIFFUSION_PARTS = {"vae", "text_encoder"}
_DENOISERS = {"unet", "transformer"}


def model_findings() -> Iterator[Finding]:
    """A line per preset, those of the package and then the user's own, and the toy preset's answer."""
    for name in (*PRESETS, *own_presets()):
        yield from checked(f"preset {name}", partial(_preset_findings, name))
    yield from checked("toy answer", lambda: [_answer()])


def _preset_findings(name: str) -> Iterator[Finding]:
    try:
        preset = load_preset(name)
    except FreedaError as error:
        yield Finding(f"preset {name}", "broken", str(error), "mend or remove the file")
        return
    yield _weights(f"preset {name}", preset)


def _weights(subject: str, preset: Preset) -> Finding:
    sizes, missing = [], []
    for role in _ROLES:
        ids = preset.models.get(role, ())
        held = next((size for size in (_bytes_here(role, item) for item in ids) if size), 0)
        if held:
            sizes.append(f"{role} {held / 1e6:,.0f} MB")
        elif ids:
            missing.append(f"{role} {ids[0]}")
    if not missing:
        return Finding(subject, "ok", ", ".join(sizes))
    found = f"not on this machine: {', '.join(missing)}"
    if any(ids and ids[0].startswith("package:") for ids in preset.models.values()):
        return Finding(subject, "broken", found, "pip install --force-reinstall --no-deps freeda")
    return Finding(subject, "note", found, "fetched from the hub when the preset is first used")


def _bytes_here(role: str, model_id: str) -> int:
    """Of a model's safetensors in a folder or in the hub's local cache; 0 where they are not complete."""
    from freeda.models.local import local_folder

    folder = local_folder(role, model_id)
    if folder is None:
        return 0
    held = [path for path in folder.rglob("*.safetensors") if path.is_file()]
    parts = {path.parent.name for path in held}
    if role == "diffusion" and not (parts >= _DIFFUSION_PARTS and parts & _DENOISERS):
        return 0
    return sum(path.stat().st_size for path in {path.resolve() for path in held})


def _answer() -> Finding:
    """Segments an example scene with the toy index, and compares with how the scene was drawn."""
    import numpy as np

    import freeda
    from freeda.toyworld.make_examples import example_images

    scene = example_images()["scene-5"]
    names = [kind.name for kind in scene.kinds]
    try:
        found = freeda.load("toy", device="cpu").segment(scene.image, list(dict.fromkeys(names)))
    except FreedaError as error:
        return Finding("toy answer", "broken", str(error), "pip install --force-reinstall --no-deps freeda")
    expected = np.array([found.classes.index(name) for name in names])[scene.instances]
    share = float((found.labels == expected).mean())
    if share < _ENOUGH:
        cure = "the libraries' versions change results; report the versions above"
        return Finding("toy answer", "broken", f"{share:.1%} of an example's pixels are right", cure)
    return Finding("toy answer", "ok", f"{share:.1%} of an example's pixels are right")
