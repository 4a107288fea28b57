"""Which models an index may name.

An index is data, and may be anybody's. The models that it names are loaded only where a preset of this
machine names them too: one that comes with the package, or one of the user's in `$FREEDA_HOME/presets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from freeda.errors import ConfigError, UntrustedIndexError
from freeda.presets.builtin import PRESETS, load_preset, own_presets
from freeda.presets.settings import LOCAL_PREFIX, Preset

__all__ = ["known_models"]


def known_models(preset: Preset, roles: Sequence[str], index: str, *, trust: bool) -> Preset:
    """An index's preset with its models as this machine has them.

    Those in folders (`local:NAME`) are taken from the preset of the same name here.
    roles: of the models that are to be loaded.
    trust: whether models may be named that no preset of this machine names.
    Raises `UntrustedIndexError`.
    """
    found = _with_local_models(preset, index)
    if not trust:
        _require_known(found, roles, index)
    return found


def _with_local_models(preset: Preset, index: str) -> Preset:
    local = [model for ids in preset.models.values() for model in ids if model.startswith(LOCAL_PREFIX)]
    if not local:
        return preset
    if preset.name not in (*PRESETS, *own_presets()):
        raise UntrustedIndexError(
            f"index '{index}' was built with models in folders ({', '.join(local)}) by preset "
            f"'{preset.name}', which this machine has not; name a preset that has these models (--preset "
            f"FILE), or put it into $FREEDA_HOME/presets"
        )
    own = load_preset(preset.name).models
    kept = {role: own.get(role, ids) for role, ids in preset.models.items()}
    return replace(preset, models=kept)


def _require_known(preset: Preset, roles: Sequence[str], index: str) -> None:
    wanted = {model for role in roles for model in preset.model_ids(role)}
    known: set[str] = set()
    unread = ""
    for name in (*PRESETS, *own_presets()):
        if wanted <= known:
            return
        try:
            known.update(model for ids in load_preset(name).models.values() for model in ids)
        except ConfigError as error:
            unread += f"; not looked at: {error}"
    unknown = [f"{role} {model}" for role in roles for model in preset.model_ids(role) if model not in known]
    if unknown:
        raise UntrustedIndexError(
            f"index '{index}' names models that no preset of this machine does ({', '.join(unknown)}){unread}"
            f"; if you trust them, add --trust-models, or name a preset of your own that has them "
            f"(--preset FILE)"
        )
