"""Scenes in another drawing style, which no model of the toy world was trained on."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from freeda.toyworld.scenes import Scene

__all__ = ["inked"]

_HUE_SHIFT = 90
"""Of OpenCV's 180: every colour becomes its opposite."""
_SATURATION = 0.6
_LEVELS = 5
_INK = (25, 20, 35)
_LINE = 1 / 64
"""Width of an outline, relative to the shorter side."""


def inked(scene: Scene) -> Scene:
    """The same scene as a coloured ink drawing: opposite hues, paler, in few tones, with dark outlines around
    things and stuff. Masks stay as they are.
    """
    hue, saturation, value = cv2.split(cv2.cvtColor(scene.image, cv2.COLOR_RGB2HSV))
    hue = ((hue.astype(np.int32) + _HUE_SHIFT) % 180).astype(np.uint8)
    saturation = (saturation * _SATURATION).astype(np.uint8)
    step = 255 / (_LEVELS - 1)
    value = (np.round(value / step) * step).astype(np.uint8)
    image = cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2RGB)
    image[_outlines(scene.instances)] = _INK
    return replace(scene, image=image)


def _outlines(instances: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels near a border of two instances."""
    size = max(2, round(min(instances.shape) * _LINE) + 1)
    window = np.ones((size, size), np.uint8)
    highest, lowest = cv2.dilate(instances, window), cv2.erode(instances, window)
    return np.asarray(highest != lowest)
