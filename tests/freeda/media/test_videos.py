from __future__ import annotations

import json
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import freeda
from freeda.cli import main
from freeda.errors import ConfigError, ImageError, OutputError
from freeda.media.videos import OverlayVideo, read_frames, segment_frames
from freeda.toyworld.scenes import draw_scene, scene_rng

CLASSES = "cat; grass; sand; sky; car"


def write_video(path: Path, frames: list[np.ndarray], times: list[int]) -> Path:
    """(H, W, 3) frames shown from `times`, in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv444p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for pixels, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    return [draw_scene(scene_rng("example", number), 128).image for number in range(5)]


@pytest.fixture(scope="module")
def video(scenes: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", scenes, [0, 100, 200, 350, 400])


def test_frames_come_in_order_with_their_times(video: Path, scenes: list[np.ndarray]) -> None:
    frames = list(read_frames(video))
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.35, 0.4], abs=1e-3)
    for frame, scene in zip(frames, scenes, strict=True):
        assert np.abs(frame.pixels.astype(int) - scene).mean() < 3  # YUV rounds
    assert [frame.number for frame in read_frames(video, every=2)] == [0, 2, 4]


def test_a_video_that_was_filmed_upright_is_turned(tmp_path: Path) -> None:
    """The display matrix of its track header turns the picture by 90 degrees clockwise, as a telephone's."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:20, :20] = 255  # above on the left, so above on the right once turned
    path = write_video(tmp_path / "clip.mp4", [pixels] * 3, [0, 100, 200])
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    assert struct.unpack(">9i", content[place : place + 36]) == (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    content[place : place + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 64 << 16, 0, 1 << 30)
    path.write_bytes(content)
    frame = next(read_frames(path))
    assert frame.pixels.shape == (96, 64, 3)
    assert frame.pixels[:15, -15:].mean() > 230 and frame.pixels.mean() < 40


def test_every_frame_is_segmented_as_the_image_it_is(video: Path) -> None:
    model = freeda.load("toy", device="cpu")
    model.set_classes(CLASSES)
    found = list(segment_frames(model, video, every=2))
    assert [frame.number for frame, _ in found] == [0, 2, 4]
    for frame, result in found:
        np.testing.assert_array_equal(result.labels, model.segment(frame.pixels).labels)


def test_overlays_become_a_video_of_the_same_times(video: Path, tmp_path: Path) -> None:
    model = freeda.load("toy", device="cpu")
    model.set_classes(CLASSES)
    path = tmp_path / "overlay.mp4"
    with OverlayVideo.create(path) as overlay:
        results = []
        for frame, result in segment_frames(model, video):
            overlay.add(frame, result)
            results.append(result)
        assert not path.exists()
    shown = list(read_frames(path))
    assert [frame.seconds for frame in shown] == pytest.approx([0, 0.1, 0.2, 0.35, 0.4], abs=1e-3)
    assert all((result.colors == results[0].colors).all() for result in results)
    colors = results[0].colors.astype(int)
    for frame, result in zip(shown, results, strict=True):
        scale = frame.pixels.shape[0] // 128
        small = frame.pixels[::scale, ::scale].astype(int)
        expected = (result.image.astype(int) + colors[result.labels]) / 2
        assert np.median(np.abs(small - expected)) < 12
    with pytest.raises(RuntimeError), OverlayVideo.create(tmp_path / "other.mp4") as overlay:
        overlay.add(shown[0], results[0])
        raise RuntimeError
    assert {item.name for item in tmp_path.iterdir()} == {"overlay.mp4"}


def test_times_that_cannot_be_used_are_made_and_told(scenes: list[np.ndarray], tmp_path: Path) -> None:
    """A raw H.264 stream has no times at all; a clip cut out of another begins at its place there."""
    with av.open(str(tmp_path / "a.h264"), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 128, 128, "yuv420p"
        for number, pixels in enumerate(scenes):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.warns(UserWarning, match="has no usable times for"):
        seconds = [frame.seconds for frame in read_frames(tmp_path / "a.h264")]
    assert len(seconds) == 5 and (np.diff(seconds) > 0).all() and seconds[0] == 0
    late = write_video(tmp_path / "late.mkv", scenes, [5000, 5100, 5200, 5350, 5400])
    assert [frame.seconds for frame in read_frames(late)] == pytest.approx([0, 0.1, 0.2, 0.35, 0.4], abs=2e-3)


def test_a_video_that_was_cut_short_is_told(scenes: list[np.ndarray], tmp_path: Path) -> None:
    whole = write_video(tmp_path / "whole.mkv", scenes * 10, list(range(0, 5000, 100)))
    content = whole.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match=r"cut.mkv' seems cut short: it ends after \d+ frames"):
        assert 5 < len(list(read_frames(tmp_path / "cut.mkv"))) < 50


def test_an_overlay_without_frames_is_none(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no frame was added"), OverlayVideo.create(tmp_path / "a.mp4"):
        pass
    assert not list(tmp_path.iterdir())


def test_odd_sides_are_written_too(tmp_path: Path) -> None:
    model = freeda.load("toy", device="cpu")
    model.set_classes(CLASSES)
    pixels = draw_scene(scene_rng("example", 1), 301).image[:, :257]
    path = write_video(tmp_path / "clip.mp4", [pixels] * 2, [0, 40])
    with OverlayVideo.create(tmp_path / "overlay.mp4") as overlay:
        for frame, result in segment_frames(model, path):
            overlay.add(frame, result)
    assert next(read_frames(tmp_path / "overlay.mp4")).pixels.shape == (302, 258, 3)


def test_what_cannot_be_read_is_told(video: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(ImageError, match="is no readable video"):
        list(read_frames(tmp_path / "a.mp4"))
    with pytest.raises(ImageError, match="no video file"):
        list(read_frames(tmp_path / "b.mp4"))
    with pytest.raises(ConfigError, match="every 0 frames; expected a whole number above 0"):
        list(read_frames(video, every=0))


def segment(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["segment", *map(str, arguments), "--classes", CLASSES])


def test_the_command_writes_an_overlay_frames_and_a_summary(video: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = segment(video, "--every", 2, "--format", "labels,overlay", "--out", out)
    assert done.exit_code == 0, done.output
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {
        *(".finished.jsonl", "clip.json", "clip.frames.jsonl", "clip.overlay.mp4"),
        *(f"clip/{n:06}.{end}" for n in (0, 2, 4) for end in ("json", "labels.png")),
    }
    summary = json.loads((out / "clip.json").read_text())
    frames = [json.loads(line) for line in (out / "clip.frames.jsonl").read_text().splitlines()]
    assert [frame["frame"] for frame in frames] == [0, 2, 4] and summary["frames"] == 3
    areas = {item["label"]: item["area"] for item in summary["segments"]}
    labels = np.stack([np.asarray(Image.open(path)) for path in sorted(out.rglob("*.png"))])
    assert areas == {
        name: count for n, name in enumerate(summary["classes"]) if (count := int((labels == n).sum()))
    }
    again = segment(video, "--every", 2, "--format", "labels,overlay", "--out", out)
    assert again.stderr == "1 of 1 images were finished already\n"
    other = segment(video, "--every", 3, "--format", "coco", "--out", out)
    assert other.exit_code == 0
    assert {path.name for path in (out / "clip").iterdir()} == {
        f"{n:06}.{end}" for n in (0, 3) for end in ("json", "coco.json", "png")
    }
    named = json.loads((out / "clip" / "000003.coco.json").read_text())["images"][0]["file_name"]
    assert named == "clip/000003.png"
    (tmp_path / "bad.mp4").write_text("no video")
    failed = segment(tmp_path / "bad.mp4", video, "--out", tmp_path / "more")
    assert failed.exit_code == 1
    assert "1 of 2 images failed" in failed.stderr and (tmp_path / "more" / "clip.overlay.mp4").exists()
    refused = segment(video, "--explain", "all", "--out", out)
    assert refused.exit_code == 2 and "frames of videos are not explained" in refused.output
