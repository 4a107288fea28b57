"""What `freeda segment` does with a raster, and with a video."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freeda.commands.progress_bar import ProgressBar
from freeda.commands.segment_job import Made, Wanted

if TYPE_CHECKING:
    from freeda.media.videos import Frame
    from freeda.methods.base import Segmenter
    from freeda.segmentation.result import Segmentation

__all__ = ["RasterWork", "VideoWork"]


@dataclass(frozen=True)
class RasterWork:
    """Writes TARGET.labels.tif and TARGET.json of a raster. bands: as `segment_raster` takes them."""

    segmenter: Segmenter
    bands: tuple[int, ...]

    def __call__(self, source: Path, target: Path) -> Made:
        from freeda.media.rasters import segment_raster

        labels = target.with_name(f"{target.name}.labels.tif")
        with ProgressBar(" tiles") as bar:
            summary = segment_raster(self.segmenter, source, labels, bands=self.bands, on_tile=bar.advance)
        return [labels, _write_json(summary, target)], summary["segments"]


@dataclass(frozen=True)
class VideoWork:
    """Writes TARGET.overlay.mp4 of a video, and of each frame whatever other formats are wanted, as
    TARGET/NUMBER...; TARGET.json tells the segments of every frame.
    """

    segmenter: Segmenter
    wanted: Wanted
    every: int

    def __call__(self, source: Path, target: Path) -> Made:
        from contextlib import nullcontext

        from freeda.media.totals import Totals
        from freeda.media.videos import OverlayVideo, segment_frames

        overlay = target.with_name(f"{target.name}.overlay.mp4")
        shown = "overlay" in self.wanted.formats
        files: list[Path] = [overlay] if shown else []
        totals, frames = Totals(), []
        with OverlayVideo.create(overlay) if shown else nullcontext() as video, ProgressBar(" frames") as bar:
            for frame, result in segment_frames(self.segmenter, source, every=self.every):
                if video is not None:
                    video.add(frame, result)
                files += self._save(frame, result, target)
                totals.add(result)
                frames.append(
                    {"frame": frame.number, "seconds": frame.seconds, "segments": result.segments_info}
                )
                bar.count(len(frames))
        segments = totals.segments_info(self.segmenter.classes)
        summary = {"classes": list(self.segmenter.classes), "segments": segments, "frames": frames}
        return [*files, _write_json(summary, target)], segments

    def _save(self, frame: Frame, result: Segmentation, target: Path) -> Sequence[Path]:
        formats = [name for name in self.wanted.formats if name != "overlay"]
        if not formats:
            return []
        return result.save(target, f"{frame.number:06}", formats, instances=self.wanted.instances)


def _write_json(content: dict[str, Any], target: Path) -> Path:
    path = target.with_name(f"{target.name}.json")
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return path
