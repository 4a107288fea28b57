"""What `freeda segment` does with a raster, and with a video."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freeda.commands.progress_bar import ProgressBar
from freeda.commands.segment_job import Made, Wanted
from freeda.segmentation import SEGMENT_FORMATS

if TYPE_CHECKING:
    from freeda.media.videos import Frame
    from freeda.methods.base import Segmenter
    from freeda.segmentation.result import Segmentation

__all__ = ["RasterWork", "VideoWork"]

_FRAME_FILE = re.compile(r"\d{6,}\.[a-z.]+")


@dataclass(frozen=True)
class RasterWork:
    """Writes TARGET.labels.tif and TARGET.json of a raster. bands: as `segment_raster` takes them."""

    segmenter: Segmenter
    bands: tuple[int, ...]

    def __call__(self, source: Path, target: Path) -> Made:
        from freeda.media.rasters import segment_raster

        labels = _beside(target, "labels.tif")
        with ProgressBar(" tiles") as bar:
            summary = segment_raster(self.segmenter, source, labels, bands=self.bands, on_tile=bar.advance)
        return [labels, _write_json(summary, target)], summary["segments"]


@dataclass(frozen=True)
class VideoWork:
    """Writes TARGET.overlay.mp4 of a video where overlays are wanted, TARGET.json with its segments in all,
    TARGET.frames.jsonl with those of each frame, and the other formats wanted as TARGET/NUMBER...
    """

    segmenter: Segmenter
    wanted: Wanted
    every: int

    def __call__(self, source: Path, target: Path) -> Made:
        from freeda.media.totals import Totals
        from freeda.media.videos import OverlayVideo, segment_frames

        overlay, log = _beside(target, "overlay.mp4"), _beside(target, "frames.jsonl")
        shown = "overlay" in self.wanted.formats
        _clear_frames(target)
        totals, count = Totals(), 0
        with (
            OverlayVideo.create(overlay) if shown else nullcontext() as video,
            log.open("w", encoding="utf-8") as frames,
            ProgressBar(" frames") as bar,
        ):
            for count, (frame, result) in enumerate(  # noqa: B007
                segment_frames(self.segmenter, source, every=self.every), 1
            ):
                if video is not None:
                    video.add(frame, result)
                self._save(frame, result, target)
                totals.add(result)
                frames.write(_frame_line(frame, result))
                bar.count(count)
        segments = totals.segments_info(self.segmenter.classes)
        summary = {"classes": list(self.segmenter.classes), "frames": count, "segments": segments}
        files = [*([overlay] if shown else []), *([target] if self._formats else []), log]
        return [*files, _write_json(summary, target)], segments

    @property
    def _formats(self) -> list[str]:
        """Those that every frame is saved in."""
        return [name for name in self.wanted.formats if name != "overlay"]

    def _save(self, frame: Frame, result: Segmentation, target: Path) -> None:
        if not self._formats:
            return
        stem = f"{frame.number:06}"
        named = replace(result, file_name=f"{self.wanted.image_prefix}{target.name}/{stem}.png")
        named.save(target, stem, self._formats, instances=self.wanted.instances)
        if set(self._formats) & set(SEGMENT_FORMATS):  # which name an image
            from PIL import Image

            Image.fromarray(frame.pixels).save(target / f"{stem}.png")


def _clear_frames(folder: Path) -> None:
    """Removes the frames of an earlier run, which may have taken other ones."""
    for path in folder.glob("*") if folder.is_dir() else ():
        if _FRAME_FILE.fullmatch(path.name):
            path.unlink()


def _frame_line(frame: Frame, result: Segmentation) -> str:
    told = {"frame": frame.number, "seconds": frame.seconds, "segments": result.segments_info}
    return json.dumps(told, ensure_ascii=False) + "\n"


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(f"{target.name}.{ending}")


def _write_json(content: dict[str, Any], target: Path) -> Path:
    path = _beside(target, "json")
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return path
