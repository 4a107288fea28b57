"""Evidence as one picture."""

from __future__ import annotations

import io
from textwrap import shorten, wrap

import numpy as np
from PIL import Image, ImageDraw

from freeda.segmentation.drawing import font, outline
from freeda.segmentation.evidence import Evidence, Vote

__all__ = ["draw_evidence"]

_PICTURE, _THUMBNAIL, _GAP = 420, 104, 16
_LARGEST = 2048
"""Longer side in pixels of the largest thumbnail that is decoded."""
_THUMBNAILS = ("WEBP", "PNG", "JPEG")
_INK, _FAINT, _OTHER = "#1d2126", "#7b828c", "#c6cad0"


def draw_evidence(evidence: Evidence) -> Image.Image:
    """The image with its region, bars of the best classes' scores, and the prototypes."""
    picture = _picture(evidence)
    rows = (len(evidence.votes) + 1) // 2
    height = max(picture.height + _GAP, 60 + 34 * len(evidence.candidates)) + 2 * _GAP
    sheet = Image.new("RGB", (2 * _PICTURE + 3 * _GAP, height + 40 + rows * (_THUMBNAIL + _GAP)), "white")
    sheet.paste(picture, (_GAP, _GAP))
    draw = ImageDraw.Draw(sheet)
    _draw_candidates(evidence, draw, _PICTURE + 2 * _GAP, _GAP)
    best = evidence.candidates[0].name
    title = f"Prototypes that voted for “{best}”" if evidence.votes else f"No prototypes behind “{best}”"
    draw.text((_GAP, height), title, fill=_INK, font=font(18))
    for number, vote in enumerate(evidence.votes):
        left = _GAP + (number % 2) * (_PICTURE + _GAP)
        _draw_vote(sheet, draw, vote, left, height + 34 + (number // 2) * (_THUMBNAIL + _GAP))
    return sheet


def _picture(evidence: Evidence) -> Image.Image:
    """The image, faded outside the region, its outline drawn, the pixel marked."""
    scale = _PICTURE / max(evidence.image.shape[:2])
    size = (max(1, round(evidence.image.shape[1] * scale)), max(1, round(evidence.image.shape[0] * scale)))
    image = np.asarray(Image.fromarray(evidence.image).resize(size, Image.Resampling.LANCZOS))
    region = np.asarray(Image.fromarray(evidence.region).resize(size, Image.Resampling.NEAREST))
    faded = image * 0.35 + 255 * 0.65
    pixels = np.where(region[..., None], image, faded).round().astype(np.uint8)
    pixels[outline(region)] = evidence.color
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    x, y = (evidence.x + 0.5) * scale, (evidence.y + 0.5) * scale
    draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=evidence.color, outline="white", width=2)
    return picture


def _draw_candidates(evidence: Evidence, draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    draw.text((left, top), f"Pixel ({evidence.x}, {evidence.y})", fill=_INK, font=font(18))
    meaning = f"score = weighted {' and '.join(evidence.weights)} score"
    if evidence.refined:
        meaning = f"refined score; below it the {' and '.join(evidence.weights)} parts before refinement"
    draw.text((left, top + 26), meaning, fill=_FAINT, font=font(13))
    low = min(candidate.score for candidate in evidence.candidates)
    high = max(candidate.score for candidate in evidence.candidates)
    for row, item in enumerate(evidence.candidates):
        y = top + 54 + 34 * row
        draw.text((left, y), shorten(item.name, 20), fill=_INK, font=font(15))
        length = 40 + 130 * (item.score - low) / max(high - low, 1e-9)
        draw.rectangle(
            (left + 130, y + 2, left + 130 + length, y + 16), fill=evidence.color if row == 0 else _OTHER
        )
        terms = [f"{evidence.weights[name]:g} x {part:.3f}" for name, part in item.parts.items()]
        figures = f"{item.score:.3f}{'; before:' if evidence.refined else ' ='} {' + '.join(terms)}"
        draw.text((left + 130, y + 18), figures, fill=_FAINT, font=font(11))


def _draw_vote(sheet: Image.Image, draw: ImageDraw.ImageDraw, vote: Vote, left: int, top: int) -> None:
    sheet.paste(_thumbnail(vote.thumbnail), (left, top))
    text = left + _THUMBNAIL + 10
    draw.text((text, top + 4), vote.noun, fill=_INK, font=font(16))
    for row, line in enumerate(_wrapped(vote.caption, 42)):
        draw.text((text, top + 28 + 16 * row), line, fill=_FAINT, font=font(12))
    figures = f"image {vote.visual_similarity:.2f}   text {vote.text_similarity:.2f}"
    draw.text((text, top + _THUMBNAIL - 20), figures, fill=_INK, font=font(13))


def _thumbnail(data: bytes) -> Image.Image:
    """The prototype's picture, faint outside of its mask where that was kept; a grey square where there is
    none, or its bytes are damaged or too many.
    """
    square = Image.new("RGB", (_THUMBNAIL, _THUMBNAIL), "#e6e8eb")
    try:
        picture = Image.open(io.BytesIO(data), formats=_THUMBNAILS)
        if max(picture.size) > _LARGEST:
            return square
        shown = picture.convert("RGBA").resize(square.size, Image.Resampling.LANCZOS)
        square = Image.alpha_composite(Image.new("RGBA", square.size, "white"), shown).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return square
    return square


def _wrapped(text: str, width: int) -> list[str]:
    """At most two lines."""
    lines = wrap(text, width)
    return lines if len(lines) <= 2 else [lines[0], shorten(" ".join(lines[1:]), width, placeholder=" …")]
