"""Devices, memory, disk, and whether the hub of models answers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from freeda.doctor.findings import Finding, checked
from freeda.files import user_folder

__all__ = ["machine_findings"]

_GIB = 2**30
_WANTED_MEMORY, _WANTED_DISK = 8 * _GIB, 20 * _GIB
"""What the full-size models take in memory and on the disk, with some room."""


def machine_findings() -> Iterator[Finding]:
    """GPUs as PyTorch and FAISS see them, memory, disk and hub."""
    yield from checked("devices", _devices)
    yield from checked("memory", lambda: [_memory()])
    yield from checked("disk", _disks)
    yield from checked("hub", lambda: [_hub()])


def _devices() -> Iterator[Finding]:
    import faiss
    import torch

    count = torch.cuda.device_count()
    if not torch.cuda.is_available():
        built = (
            f"PyTorch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "PyTorch has no CUDA"
        )
        found = f"no GPU ({built}); {os.cpu_count()} CPU cores"
        yield Finding("devices", "note", found, "an index of thousands of full-size images takes a GPU")
        return
    names = [torch.cuda.get_device_properties(number) for number in range(count)]
    yield Finding(
        "devices", "ok", ", ".join(f"{item.name} {item.total_memory // _GIB} GiB" for item in names)
    )
    if faiss.get_num_gpus() == 0:
        cure = "where keys are many: pip uninstall -y faiss-cpu && pip install faiss-gpu"
        gpu_build = hasattr(faiss, "StandardGpuResources")
        yield Finding("faiss and GPUs", "note", "FAISS searches on the CPU", "" if gpu_build else cure)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    if total and total < _WANTED_MEMORY:
        return Finding("memory", "note", _size(total), "full-size models want 8 GiB; the toy preset needs 2")
    return Finding("memory", "ok", _size(total) if total else "unknown on this system")


def _disks() -> Iterator[Finding]:
    """Where indexes lie, and where the hub's models are kept."""
    from huggingface_hub import constants

    for subject, folder in (("disk", user_folder()), ("disk of models", Path(constants.HF_HUB_CACHE))):
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        found = f"{_size(free)} free at {folder}"
        if free < _WANTED_DISK:
            yield Finding(subject, "note", found, "full-size models and an index of a million want 20 GiB")
        else:
            yield Finding(subject, "ok", found)


def _hub() -> Finding:
    from huggingface_hub import constants

    from freeda.models.loading import hub_reachable

    if hub_reachable():
        return Finding("hub", "ok", f"{constants.ENDPOINT} answers")
    cure = (
        "models come from folders and the local cache only; download on another machine, or mend the network"
    )
    return Finding("hub", "note", f"{constants.ENDPOINT} does not answer", cure)


def _size(count: int) -> str:
    return f"{count / _GIB:.0f} GiB"
