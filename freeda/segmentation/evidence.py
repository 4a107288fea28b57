"""Why a pixel got its class: its region, the best classes' scores, and the prototypes that voted."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten, wrap
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from freeda.errors import OutputError

__all__ = ["Candidate", "Evidence", "Vote"]

_PICTURE, _THUMBNAIL, _GAP = 420, 104, 16
_INK, _FAINT, _BAR = "#1d2126", "#7b828c", "#2f6fde"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A class with its score at the pixel and what it is made of: the region's local score by what was
    retrieved, and the global cosine of image and class text. A background's constant stands for all
    three; a background concept is named "background: CONCEPT".
    """

    name: str
    score: float
    local: float
    global_: float


@dataclass(frozen=True, kw_only=True)
class Vote:
    """A prototype retrieved for the winning class, or by the region where regions retrieve.

    text_similarity: cosine of its key and the class text; visual_similarity: cosine of its vector
    and the region's feature; thumbnail: an encoded picture.
    """

    id: str
    noun: str
    caption: str
    text_similarity: float
    visual_similarity: float
    thumbnail: bytes


@dataclass(frozen=True)
class Evidence:
    """The answer to "why this class here?".

    image: (H, W, 3) uint8; x, y: the pixel; region: (H, W) bool, its superpixel in the window whose
    centre is nearest; local_weight: share of the local score; candidates: best first; votes: of the
    best class, most alike first; refined: whether the scores, made of the region's two parts, were then
    refined by the pixels around (PAMR).
    """

    image: np.ndarray
    x: int
    y: int
    region: np.ndarray
    local_weight: float
    candidates: tuple[Candidate, ...]
    votes: tuple[Vote, ...]
    refined: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain data, without pictures."""
        return {
            "x": self.x,
            "y": self.y,
            "region_pixels": int(self.region.sum()),
            "local_weight": self.local_weight,
            "refined": self.refined,
            "candidates": [
                {"class": c.name, "score": c.score, "local": c.local, "global": c.global_}
                for c in self.candidates
            ],
            "prototypes": [
                {
                    "id": vote.id,
                    "noun": vote.noun,
                    "caption": vote.caption,
                    "text_similarity": vote.text_similarity,
                    "visual_similarity": vote.visual_similarity,
                }
                for vote in self.votes
            ],
        }

    def save(self, folder: str | Path, stem: str) -> list[Path]:
        """Writes STEM.X-Y.evidence.png and .json into `folder`; returns the paths."""
        target = Path(folder)
        paths = [target / f"{stem}.{self.x}-{self.y}.evidence{ending}" for ending in (".png", ".json")]
        try:
            target.mkdir(parents=True, exist_ok=True)
            self.sheet().save(paths[0])
            paths[1].write_text(
                json.dumps(self.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        except OSError as error:
            raise OutputError(
                f"cannot write to '{target}': {error.strerror or error}; choose another --out"
            ) from error
        return paths

    def sheet(self) -> Image.Image:
        """The picture with its region, bars of the best classes' scores, and the voting prototypes."""
        picture = self._picture()
        rows = (len(self.votes) + 1) // 2
        height = max(picture.height + _GAP, 60 + 34 * len(self.candidates)) + 2 * _GAP
        sheet = Image.new("RGB", (2 * _PICTURE + 3 * _GAP, height + 40 + rows * (_THUMBNAIL + _GAP)), "white")
        sheet.paste(picture, (_GAP, _GAP))
        draw = ImageDraw.Draw(sheet)
        self._draw_candidates(draw, _PICTURE + 2 * _GAP, _GAP)
        best = self.candidates[0].name
        title = f"Prototypes that voted for “{best}”" if self.votes else f"No prototype votes for “{best}”"
        draw.text((_GAP, height), title, fill=_INK, font=_font(18))
        for number, vote in enumerate(self.votes):
            left = _GAP + (number % 2) * (_PICTURE + _GAP)
            _draw_vote(sheet, draw, vote, left, height + 34 + (number // 2) * (_THUMBNAIL + _GAP))
        return sheet

    def _picture(self) -> Image.Image:
        """The image, faded outside the region, its outline drawn, the pixel marked."""
        scale = _PICTURE / max(self.image.shape[:2])
        size = (max(1, round(self.image.shape[1] * scale)), max(1, round(self.image.shape[0] * scale)))
        image = np.asarray(Image.fromarray(self.image).resize(size, Image.Resampling.LANCZOS))
        region = np.asarray(Image.fromarray(self.region).resize(size, Image.Resampling.NEAREST))
        faded = image * 0.35 + 255 * 0.65
        pixels = np.where(region[..., None], image, faded).round().astype(np.uint8)
        pixels[_outline(region)] = (47, 111, 222)
        picture = Image.fromarray(pixels)
        draw = ImageDraw.Draw(picture)
        x, y = (self.x + 0.5) * scale, (self.y + 0.5) * scale
        draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=_BAR, outline="white", width=2)
        return picture

    def _draw_candidates(self, draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
        draw.text((left, top), f"Pixel ({self.x}, {self.y})", fill=_INK, font=_font(18))
        meaning = "score = weighted region and whole-image likeness"
        if self.refined:
            meaning = "score refined by the pixels around; the region's and the image's part"
        draw.text((left, top + 26), meaning, fill=_FAINT, font=_font(13))
        low = min(candidate.score for candidate in self.candidates)
        high = max(candidate.score for candidate in self.candidates)
        for row, item in enumerate(self.candidates):
            y = top + 54 + 34 * row
            draw.text((left, y), shorten(item.name, 20), fill=_INK, font=_font(15))
            length = 40 + 130 * (item.score - low) / max(high - low, 1e-9)
            draw.rectangle(
                (left + 130, y + 2, left + 130 + length, y + 16), fill=_BAR if row == 0 else "#a9c4f5"
            )
            shares = (
                f"{self.local_weight:g} x {item.local:.3f} + {1 - self.local_weight:g} x {item.global_:.3f}"
            )
            figures = f"{item.score:.3f}{'; region' if self.refined else ' ='} {shares}"
            draw.text((left + 130, y + 18), figures, fill=_FAINT, font=_font(11))


def _draw_vote(sheet: Image.Image, draw: ImageDraw.ImageDraw, vote: Vote, left: int, top: int) -> None:
    sheet.paste(_thumbnail(vote.thumbnail), (left, top))
    text = left + _THUMBNAIL + 10
    draw.text((text, top + 4), vote.noun, fill=_INK, font=_font(16))
    for row, line in enumerate(_wrapped(vote.caption, 42)):
        draw.text((text, top + 28 + 16 * row), line, fill=_FAINT, font=_font(12))
    figures = f"looks {vote.visual_similarity:.2f}   text {vote.text_similarity:.2f}"
    draw.text((text, top + _THUMBNAIL - 20), figures, fill=_BAR, font=_font(13))


def _thumbnail(data: bytes) -> Image.Image:
    """The prototype's picture, or a grey square where none was kept or its bytes are damaged."""
    square = Image.new("RGB", (_THUMBNAIL, _THUMBNAIL), "#e6e8eb")
    try:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
    except OSError:
        return square
    picture = picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    square.paste(picture)
    return square


def _wrapped(text: str, width: int) -> list[str]:
    """At most two lines."""
    lines = wrap(text, width)
    return lines if len(lines) <= 2 else [lines[0], shorten(" ".join(lines[1:]), width, placeholder=" …")]


def _outline(region: np.ndarray) -> np.ndarray:
    edge = np.zeros(region.shape, bool)
    edge[1:] |= region[1:] != region[:-1]
    edge[:-1] |= region[1:] != region[:-1]
    edge[:, 1:] |= region[:, 1:] != region[:, :-1]
    edge[:, :-1] |= region[:, 1:] != region[:, :-1]
    return edge


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
