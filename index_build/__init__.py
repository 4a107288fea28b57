"""The offline stage: captions in, a prototype index out, as restartable Dask tasks."""

from __future__ import annotations

from index_build.cluster.connection import Resources
from index_build.config import BuildConfig
from index_build.job import BuildSummary, build_index

__all__ = ["BuildConfig", "BuildSummary", "Resources", "build_index"]
