"""Where a model's weights lie on this machine, without loading it."""

from __future__ import annotations

from pathlib import Path

from freeda.models.loading import is_folder, repository_of, resolve

__all__ = ["local_folder"]


def local_folder(role: str, model_id: str) -> Path | None:
    """A model's folder, or its repository's in the hub's local cache; None where there is neither.

    role: "diffusion", "clip" or "backbone", which decides whose names are understood.
    """
    resolved = resolve(model_id)
    if is_folder(resolved):
        return Path(resolved)
    repository = repository_of(resolved) or _library_repository(role, resolved)
    if repository is None:
        return None
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    return folder if folder.is_dir() else None


def _library_repository(role: str, name: str) -> str | None:
    """The repository behind a name of open_clip's (`MODEL@WEIGHTS`) or timm's."""
    if role == "clip" and "@" in name:
        import open_clip

        model, _, weights = name.partition("@")
        return (open_clip.get_pretrained_cfg(model, weights) or {}).get("hf_hub", "").rstrip("/") or None
    if role == "backbone":
        import timm

        config = timm.models.get_pretrained_cfg(name, allow_unregistered=False)
        return config.hf_hub_id if config is not None else None
    return None
