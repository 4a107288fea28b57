"""What every segmentation method must do; a method's test subclasses this and gives a `segmenter`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from freeda.errors import ClassNamesError, ConfigError, ImageError


def picture(height: int, width: int) -> np.ndarray:
    """Noise with two flat halves, so that there is something to segment."""
    rng = np.random.default_rng(height * 1000 + width)
    image = rng.integers(0, 40, (height, width, 3), dtype=np.uint8)
    image[:, width // 2 :] += 180
    return image


class MethodContract:
    """Subclass, and override the fixture `segmenter`."""

    CLASSES = ("cat,kitten", "dog", "grass")
    OTHERS = "sky"
    TOO_LONG = (2, 100)

    @pytest.fixture
    def segmenter(self):
        raise NotImplementedError

    @pytest.mark.parametrize("size", [(56, 56), (56, 90), (130, 61), (1, 1), (7, 3), (2, 40)])
    def test_labels_have_the_image_s_own_size(self, segmenter, size: tuple[int, int]) -> None:
        result = segmenter.segment(picture(*size), self.CLASSES)
        assert result.labels.shape == result.scores.shape == size
        assert result.labels.dtype == np.int32
        assert set(np.unique(result.labels)) <= {0, 1, 2}
        assert result.classes == ("cat", "dog", "grass")
        np.testing.assert_array_equal(result.image, picture(*size))

    def test_paths_pictures_and_arrays_give_the_same(self, segmenter, tmp_path: Path) -> None:
        path = tmp_path / "image.png"
        Image.fromarray(picture(60, 80)).save(path)
        results = [
            segmenter.segment(source, self.CLASSES)
            for source in (path, str(path), Image.open(path), picture(60, 80))
        ]
        for result in results[1:]:
            np.testing.assert_array_equal(result.labels, results[0].labels)

    def test_the_order_of_classes_only_renames_labels(self, segmenter) -> None:
        image = picture(60, 84)
        forward = segmenter.segment(image, self.CLASSES)
        backward = segmenter.segment(image, self.CLASSES[::-1])
        np.testing.assert_array_equal(forward.labels, 2 - backward.labels)

    def test_labels_are_the_best_of_the_score_maps(self, segmenter) -> None:
        result = segmenter.segment(picture(70, 90), self.CLASSES)
        maps = result.score_maps(result.classes)
        assert maps.shape == (3, 70, 90) and maps.dtype == np.float32
        np.testing.assert_allclose(maps.max(0), result.scores, atol=1e-5)
        chosen = np.take_along_axis(maps, result.labels[None].astype(int), 0)[0]
        np.testing.assert_allclose(chosen, result.scores, atol=1e-5)
        np.testing.assert_array_equal(result.score_maps(["grass"])[0], maps[2])
        assert result.score_maps([]).shape == (0, 70, 90)
        with pytest.raises(ConfigError, match="no class 'cow' in this result; it has cat, dog, grass"):
            result.score_maps(["cow"])

    def test_a_stream_keeps_the_classes_it_began_with(self, segmenter) -> None:
        with pytest.raises(ClassNamesError, match="no classes chosen"):
            segmenter.stream([picture(56, 56)])
        segmenter.set_classes(self.CLASSES)
        results = segmenter.stream([picture(56, 56), picture(60, 80)])
        first = next(results)
        segmenter.set_classes(self.OTHERS)
        assert [first.classes, *(result.classes for result in results)] == [("cat", "dog", "grass")] * 2

    def test_a_bad_image_in_a_stream_costs_no_other(self, segmenter, tmp_path: Path) -> None:
        (tmp_path / "bad.png").write_text("no image")
        segmenter.set_classes(self.CLASSES)
        told: list[object] = []
        images = [picture(56, 56), tmp_path / "bad.png", picture(*self.TOO_LONG), picture(60, 80)]
        results = list(segmenter.stream(images, on_error=lambda image, error: told.append(image)))
        assert [result.labels.shape for result in results] == [(56, 56), (60, 80)]
        assert told[0] == images[1] and told[1] is images[2] and len(told) == 2

    def test_classes_can_be_set_once(self, segmenter) -> None:
        with pytest.raises(ClassNamesError, match="no classes chosen"):
            segmenter.segment(picture(56, 56))
        segmenter.set_classes(self.CLASSES)
        once = segmenter.segment(picture(56, 56))
        np.testing.assert_array_equal(once.labels, segmenter.segment(picture(56, 56), self.CLASSES).labels)

    def test_a_list_gives_a_list(self, segmenter) -> None:
        images = [picture(56, 60), picture(70, 56)]
        results = segmenter.segment(images, self.CLASSES)
        for image, result in zip(images, results, strict=True):
            np.testing.assert_array_equal(result.labels, segmenter.segment(image, self.CLASSES).labels)

    def test_a_single_class_fills_the_image(self, segmenter) -> None:
        assert (segmenter.segment(picture(56, 60), "cat").labels == 0).all()

    def test_bad_classes_and_images_are_refused(self, segmenter) -> None:
        with pytest.raises(ClassNamesError):
            segmenter.segment(picture(56, 56), "cat;;dog")
        with pytest.raises(ImageError):
            segmenter.segment(np.zeros((4, 4), np.float64), "cat")
        with pytest.raises(ImageError, match="differ by 32 times"):
            segmenter.segment(picture(*self.TOO_LONG), "cat")
