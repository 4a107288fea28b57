"""Finds and loads models: from local folders or a hub, several ids in order, with one clear error."""

from __future__ import annotations

import hashlib
import logging
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import SafetensorError

from freeda.errors import ConfigError, ModelNotFoundError
from freeda.models.inspection import UntrustedModelError, inspect_configs, inspect_folder, require_safetensors
from freeda.presets.settings import Precision

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "choose_device",
    "chosen_dtype",
    "default_dtype",
    "fetch_safetensors",
    "hub_reachable",
    "is_folder",
    "load_first",
    "prepare",
    "repository_of",
    "require_weights",
    "resolve",
    "weights_fingerprint",
]

Model = TypeVar("Model")

PACKAGE_PREFIX = "package:"
_PACKAGE = Path(__file__).resolve().parents[1]
_HUB_TIMEOUT_SECONDS = 5.0
_SAMPLED_VALUES = 64


def choose_device(name: str = "auto") -> torch.device:
    """`auto` is the first CUDA device where there is one, then Apple's MPS, then the CPU."""
    if name != "auto":
        return _named_device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _named_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device '{name}'; expected auto, cpu, cuda, cuda:1, mps, ...") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device '{name}' was asked for, but PyTorch sees no CUDA GPU; use auto or cpu")
    return device


def default_dtype(device: torch.device) -> torch.dtype:
    """float16 on an NVIDIA GPU, float32 elsewhere."""
    return torch.float16 if device.type == "cuda" else torch.float32


def chosen_dtype(name: Precision, device: torch.device) -> torch.dtype:
    """The precision that a preset names, as a type of PyTorch's."""
    chosen: torch.dtype = default_dtype(device) if name == "auto" else getattr(torch, name)
    return chosen


def is_folder(model_id: str) -> bool:
    """Whether an id is the path of a folder of this machine, and not the name of a model of a hub."""
    return _looks_like_path(model_id) and Path(model_id).is_dir()


def repository_of(model_id: str) -> str | None:
    """The hub's repository that an id names; None for a folder, or a name that a model library resolves.

    Raises `UntrustedModelError` for a scheme or a revision, which a library would read unseen.
    """
    if is_folder(model_id):
        return None
    scheme, colon, rest = model_id.rpartition(":")
    if colon and scheme not in ("hf-hub", "hf_hub"):
        raise UntrustedModelError(f"'{scheme}:' is no way to name a model; name a folder by its path")
    if rest.count("/") != 1:
        return None
    if "@" in rest:
        raise UntrustedModelError("names a revision of a repository, which is not read; download it")
    return rest


def _configs(repository: str) -> Path:
    """The folder of the local cache with a repository's configurations."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, allow_patterns=["*.json"]))


def fetch_safetensors(repository: str) -> Path:
    """The folder of the local cache with a repository's configurations, words and safetensors."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repository, allow_patterns=["*.json", "*.txt", "*.safetensors"]))


def require_weights(model_id: str, *names: str) -> None:
    """Raises `UntrustedModelError` unless the weights of a folder or a repository are one of these files.

    A library would read pickled ones in their place. A repository's are fetched.
    """
    if is_folder(model_id):
        require_safetensors(Path(model_id), *names)
    elif (repository := repository_of(model_id)) is not None:
        _fetch_first(repository, names)


def _fetch_first(repository: str, names: Sequence[str]) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names:
        try:
            hf_hub_download(repository, name)
            return
        except (EntryNotFoundError, LocalEntryNotFoundError):
            continue
    raise UntrustedModelError(f"holds no {' or '.join(names)} within reach")


def load_first(kind: str, ids: Sequence[str], load: Callable[[str], Model]) -> Model:
    """Loads the first of `ids` that is available.

    A folder is named by a path (`./NAME`); any other id is a hub's, whatever lies in the current folder.
    Models that ask for code of their own are not loaded; of a hub's repository, the configurations are
    fetched and looked at first.
    Where the hub cannot be reached, only its local cache is asked, which takes no time.
    Raises `ModelNotFoundError`, which names all ids and the reason of each.
    """
    failures: list[str] = []
    for model_id in map(resolve, ids):
        if _looks_like_path(model_id) and not is_folder(model_id):
            failures.append(f"{model_id} (no such folder)")
            continue
        try:
            if is_folder(model_id):
                inspect_folder(Path(model_id))
            repository = repository_of(model_id)
            with _quiet_hub(online=is_folder(model_id) or hub_reachable()):
                if repository is not None:
                    inspect_configs(_configs(repository))
                return load(model_id)
        except torch.OutOfMemoryError:
            raise
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            here = f"; the folder of that name here is ./{model_id}" if Path(model_id).is_dir() else ""
            failures.append(f"{model_id} ({_first_line(error)}{'' if is_folder(model_id) else here})")
    raise ModelNotFoundError(
        f"no {kind} model could be loaded; tried {'; '.join(failures)}. Download one on a machine "
        f"with network (`hf download ID --local-dir FOLDER`) and name the folder in a preset file "
        f"(`freeda presets --show toy` prints one)"
    )


def weights_fingerprint(weights: Mapping[str, torch.Tensor]) -> str:
    """A short digest of a model's weights: names, shapes and evenly spaced values as float16.

    As float16, it is the same for a model loaded in float32 or float16 (bfloat16 has fewer digits: take it
    before casting). As a sample, it takes no time for a billion parameters. It distinguishes models; it is no
    proof against forgery.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().reshape(-1)
        stride = max(1, len(tensor) // _SAMPLED_VALUES)
        sample = tensor[::stride][:_SAMPLED_VALUES].to("cpu", torch.float16)
        digest.update(f"{name}{tuple(weights[name].shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def prepare(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A model ready for inference: moved, cast, in evaluation mode, without gradients."""
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False)


def resolve(model_id: str) -> str:
    """`package:PATH` is a folder inside this package, wherever that is installed."""
    if model_id.startswith(PACKAGE_PREFIX):
        folder = (_PACKAGE / model_id.removeprefix(PACKAGE_PREFIX)).resolve()
        if not folder.is_relative_to(_PACKAGE):
            raise ConfigError(f"model '{model_id}' lies outside of the package; name the folder by its path")
        return str(folder)
    return str(Path(model_id).expanduser()) if model_id.startswith("~") else model_id


def _looks_like_path(model_id: str) -> bool:
    return model_id.startswith(".") or Path(model_id).is_absolute()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")


@lru_cache(maxsize=1)
def hub_reachable() -> bool:
    """Whether the hub of models answers; asked once."""
    from huggingface_hub import constants

    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_HUB_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except (urllib.error.URLError, TimeoutError):
        return False
    return True


@contextmanager
def _quiet_hub(*, online: bool) -> Iterator[None]:
    """Inside the block an unreachable hub is not asked again and again, and loaders log errors only."""
    from huggingface_hub import constants

    before, level = constants.HF_HUB_OFFLINE, logging.root.manager.disable
    constants.HF_HUB_OFFLINE = before or not online
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the loaders' own arguments
            yield
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.disable(level)
