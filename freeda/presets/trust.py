"""Which models an index may name.

An index is data, and may be anybody's. The models that it names are loaded only where a preset of this
machine names
them too: one that comes with the package, or one of the user's in `$FREEDA_HOME/presets`.
"""

from __future__ import annotations

from collections.abc import Sequence

from freeda.errors import UntrustedIndexError
from freeda.presets.builtin import PRESETS, load_preset, own_presets
from freeda.presets.settings import Preset

__all__ = ["require_known_models"]


def require_known_models(preset: Preset, roles: Sequence[str], index: str) -> None:
    """Raises `UntrustedIndexError` where an index's preset names a model that no preset of this machine does.

    roles: of the models that are to be loaded.
    """
    presets = [load_preset(name) for name in (*PRESETS, *own_presets())]
    known = {model for item in presets for ids in item.models.values() for model in ids}
    unknown = [f"{role} {model}" for role in roles for model in preset.model_ids(role) if model not in known]
    if unknown:
        raise UntrustedIndexError(
            f"index '{index}' names models that no preset of this machine does ({', '.join(unknown)}); if "
            f"you trust them, add --trust-models, or name a preset of your own that has them (--preset FILE)"
        )
