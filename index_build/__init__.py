"""The offline stage: captions in, a prototype index out, as restartable Dask tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from index_build.cluster.connection import Resources
    from index_build.config import BuildConfig
    from index_build.job import BuildSummary, build_index

__all__ = ["BuildConfig", "BuildSummary", "Resources", "build_index"]

_MODULES = {
    "BuildConfig": "index_build.config",
    "BuildSummary": "index_build.job",
    "Resources": "index_build.cluster.connection",
    "build_index": "index_build.job",
}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use: a wrong option is told before Dask is loaded."""
    if name not in _MODULES:
        raise AttributeError(f"module 'index_build' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
