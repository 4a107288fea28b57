"""Inked scenes: another look, the same truth."""

from __future__ import annotations

import cv2
import numpy as np

from freeda.evaluation.toy import ToyDataset
from freeda.toyworld.scenes import draw_scene, scene_rng
from freeda.toyworld.styles import inked


def hues(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 0].astype(int)


def test_masks_stay_and_colours_become_their_opposites() -> None:
    plain = draw_scene(scene_rng("evaluation", 1))
    found = inked(plain)
    assert np.array_equal(found.labels, plain.labels) and np.array_equal(found.instances, plain.instances)
    colourful = cv2.cvtColor(plain.image, cv2.COLOR_RGB2HSV)[..., 1] > 120
    colourful &= (found.image > 60).any(-1)
    apart = (hues(found.image) - hues(plain.image))[colourful] % 180
    assert np.median(np.abs(apart - 90)) < 4


def test_borders_of_things_are_dark_lines() -> None:
    plain = draw_scene(scene_rng("evaluation", 0))
    edge = plain.instances[:, 1:] != plain.instances[:, :-1]
    line = inked(plain).image[:, 1:][edge]
    assert edge.sum() > 50 and (line == (25, 20, 35)).all()


def test_the_data_set_differs_in_its_images_only() -> None:
    plain, ink = ToyDataset(count=3), ToyDataset(count=3, ink=True)
    assert plain.identity["dataset"] == "toyworld" and ink.identity["dataset"] == "toyworld-ink"
    assert np.array_equal(plain.truth(2), ink.truth(2))
    assert (np.asarray(plain.image(2)) != np.asarray(ink.image(2))).mean() > 0.5
    assert np.array_equal(ink.annotated(2).image, ink.image(2))
