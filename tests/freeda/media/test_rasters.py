from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner, Result
from PIL import Image
from rasterio.transform import from_origin

import freeda
from freeda.cli import main
from freeda.errors import ConfigError, ImageError, OutputError
from freeda.media.raster_bands import RasterBands
from freeda.media.rasters import segment_raster
from freeda.toyworld.scenes import draw_scene, scene_rng

CLASSES = "cat; grass; sand; sky; car"
PLACE = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 0.5, 0.5)}


def write_raster(path: Path, bands: np.ndarray, **options: object) -> Path:
    """Bands of (B, H, W) as a GeoTIFF."""
    count, height, width = bands.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": bands.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile, **{**PLACE, **options}) as dataset:
            dataset.write(bands)
    return path


@pytest.fixture(scope="module")
def model() -> freeda.Segmenter:
    segmenter = freeda.load("toy", device="cpu", native=True)
    segmenter.set_classes(CLASSES)
    return segmenter


@pytest.fixture(scope="module")
def mosaic() -> np.ndarray:
    """(3, 300, 610) uint8: scenes side by side, cut off on the right and below."""
    scenes = [draw_scene(scene_rng("example", number), 205).image for number in range(6)]
    rows = [np.hstack(scenes[:3]), np.hstack(scenes[3:])]
    return np.vstack(rows)[:300, :610].transpose(2, 0, 1)


def test_labels_are_those_of_the_image_and_lie_where_it_lies(
    model: freeda.Segmenter, mosaic: np.ndarray, tmp_path: Path
) -> None:
    source = write_raster(tmp_path / "a.tif", mosaic)
    summary = segment_raster(model, source, tmp_path / "labels.tif")
    tiled = freeda.load("toy", device="cpu", native=True).segment(mosaic.transpose(1, 2, 0), CLASSES)
    with rasterio.open(tmp_path / "labels.tif") as labels, rasterio.open(source) as dataset:
        np.testing.assert_array_equal(labels.read(1), tiled.labels)
        assert (labels.crs, labels.transform, labels.bounds) == (
            dataset.crs,
            dataset.transform,
            dataset.bounds,
        )
        assert labels.nodata == tiled.ignore_index and labels.dtypes == ("uint8",)
        assert labels.tags(1) == {f"class_{n}": name for n, name in enumerate(tiled.classes)}
        assert len({labels.colormap(1)[n] for n in range(5)}) == 5
        assert labels.block_shapes == [(256, 256)]
    assert summary["segments"] == [
        {**item, "score": pytest.approx(item["score"], abs=1e-5)} for item in tiled.segments_info
    ]
    assert (summary["height"], summary["width"], summary["undecided"]) == (300, 610, 0)
    assert summary["paths"] == {"tiles": tiled.paths["tiles"], "tiles without data": 0}


def test_pixels_without_data_stay_undecided_and_cost_nothing(model: freeda.Segmenter, tmp_path: Path) -> None:
    scene = draw_scene(scene_rng("example", 1), 128).image.transpose(2, 0, 1)
    bands = np.zeros((3, 2000, 1900), np.uint8)
    bands[:, 400:528, 300:428] = np.maximum(scene, 1)
    source = write_raster(tmp_path / "a.tif", bands, nodata=0)
    summary = segment_raster(model, source, tmp_path / "labels.tif")
    with rasterio.open(tmp_path / "labels.tif") as labels:
        decided = labels.read(1) != labels.nodata
    expected = np.zeros((2000, 1900), bool)
    expected[400:528, 300:428] = True
    np.testing.assert_array_equal(decided, expected)
    assert summary["undecided"] == 2000 * 1900 - 128 * 128
    assert summary["paths"]["tiles"] <= 4 and summary["paths"]["tiles without data"] > 15
    assert sum(item["area"] for item in summary["segments"]) == 128 * 128
    assert sum(item["share"] for item in summary["segments"]) == pytest.approx(
        128 * 128 / 3_800_000, abs=1e-5
    )


def test_deep_bands_are_stretched_and_chosen(
    model: freeda.Segmenter, mosaic: np.ndarray, tmp_path: Path
) -> None:
    """A satellite's reflectances in another order of bands give what 8-bit pixels of their contrast give."""
    low, high = (np.percentile(mosaic, share, axis=(1, 2), keepdims=True) for share in (2, 98))
    stretched = ((mosaic - low) / (high - low)).clip(0, 1) * 255
    plain = write_raster(tmp_path / "plain.tif", stretched.round().astype(np.uint8))
    deep = np.concatenate([np.full((1, 300, 610), 7), mosaic[::-1].astype(int) * 12 + 1000]).astype(np.uint16)
    source = write_raster(tmp_path / "deep.tif", deep)
    segment_raster(model, plain, tmp_path / "plain.labels.tif")
    segment_raster(model, source, tmp_path / "deep.labels.tif", bands=(4, 3, 2))
    with (
        rasterio.open(tmp_path / "plain.labels.tif") as one,
        rasterio.open(tmp_path / "deep.labels.tif") as other,
    ):
        assert (one.read(1) == other.read(1)).mean() > 0.97


def test_data_is_known_band_by_band(model: freeda.Segmenter, mosaic: np.ndarray, tmp_path: Path) -> None:
    """NaN is no data, and neither is what one of the chosen bands lacks, whatever lies in others."""
    known = np.zeros((300, 610), bool)
    known[40:200, 30:330] = True
    floats = np.where(known, mosaic / 255.0, np.nan).astype(np.float32)
    shorts = np.where(known, mosaic.astype(np.int16) * 20, -9999)
    shorts = np.concatenate([shorts, np.ones((1, 300, 610), int)]).astype(np.int16)
    for name, bands, options in (("floats", floats, {}), ("shorts", shorts, {"nodata": -9999})):
        source = write_raster(tmp_path / f"{name}.tif", bands, **options)
        segment_raster(model, source, tmp_path / f"{name}.labels.tif")
        with rasterio.open(tmp_path / f"{name}.labels.tif") as labels:
            np.testing.assert_array_equal(labels.read(1) != 255, known)
    with (
        rasterio.open(tmp_path / "floats.labels.tif") as one,
        rasterio.open(tmp_path / "shorts.labels.tif") as other,
    ):
        assert (one.read(1) == other.read(1)).mean() > 0.99


def test_palettes_are_expanded_and_few_bits_are_bright(
    model: freeda.Segmenter, mosaic: np.ndarray, tmp_path: Path
) -> None:
    picture = Image.fromarray(mosaic.transpose(1, 2, 0)).quantize(64)
    indices = np.asarray(picture)[None]
    source = write_raster(tmp_path / "a.tif", indices, photometric="palette")
    colors = np.array(picture.getpalette()).reshape(-1, 3)
    with rasterio.open(source, "r+") as dataset:
        dataset.write_colormap(1, {n: (*map(int, color), 255) for n, color in enumerate(colors)})
    read = RasterBands.of(rasterio.open(source), (), "a")
    np.testing.assert_array_equal(
        read.pixels((slice(10, 60), slice(5, 90))), colors[indices[0, 10:60, 5:90]].astype(np.uint8)
    )
    bits = write_raster(tmp_path / "b.tif", indices % 2, nbits=1)
    pixels = RasterBands.of(rasterio.open(bits), (), "b").pixels((slice(0, 50), slice(0, 50)))
    np.testing.assert_array_equal(pixels[..., 0], indices[0, :50, :50] % 2 * 255)
    waves = write_raster(tmp_path / "c.tif", np.ones((1, 50, 50), np.complex64))
    with pytest.raises(ImageError, match="holds complex numbers; give a raster of their magnitudes"):
        segment_raster(model, waves, tmp_path / "labels.tif")


def test_rational_functions_of_satellites_are_kept(
    model: freeda.Segmenter, mosaic: np.ndarray, tmp_path: Path
) -> None:
    source = write_raster(tmp_path / "a.tif", mosaic)
    coefficients = " ".join(["1", *["0"] * 19])
    numbers = {
        f"{name}_{part}": "1"
        for name in ("LINE", "SAMP", "LAT", "LONG", "HEIGHT")
        for part in ("OFF", "SCALE")
    }
    numbers |= {f"{name}_{part}_COEFF": coefficients for name in ("LINE", "SAMP") for part in ("NUM", "DEN")}
    with rasterio.open(source, "r+") as dataset:
        dataset.update_tags(ns="RPC", **numbers)
    segment_raster(model, source, tmp_path / "labels.tif")
    with rasterio.open(source) as dataset, rasterio.open(tmp_path / "labels.tif") as labels:
        assert labels.rpcs is not None and labels.rpcs.to_dict() == dataset.rpcs.to_dict()


def test_a_disk_that_is_full_is_told(mosaic: np.ndarray, tmp_path: Path) -> None:
    """GDAL writes its last blocks when it closes a file, and raises nothing there."""
    source = write_raster(tmp_path / "a.tif", mosaic)
    code = (
        "import resource, sys, freeda\n"
        "from freeda.media.rasters import segment_raster\n"
        "model = freeda.load('toy', device='cpu'); model.set_classes('cat; grass; sand; sky; car')\n"
        "if sys.argv[3] != '0': resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)\n"
        "segment_raster(model, sys.argv[1], sys.argv[2])\n"
    )
    target = tmp_path / "labels.tif"

    def run(limit: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(source), str(target), str(limit)]
        return subprocess.run(command, capture_output=True, text=True)

    assert run(0).returncode == 0
    before = target.read_bytes()
    cut = run(len(before) - 200)
    assert cut.returncode == 1
    assert "freeda.errors.OutputError" in cut.stderr
    assert target.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"a.tif", "labels.tif"}


def test_a_folder_that_is_not_there_is_no_fault_of_the_source(
    model: freeda.Segmenter, mosaic: np.ndarray, tmp_path: Path
) -> None:
    source = write_raster(tmp_path / "a.tif", mosaic)
    with pytest.raises(OutputError, match="cannot write"):
        segment_raster(model, source, tmp_path / "none" / "labels.tif")


def test_many_classes_take_sixteen_bits_and_gray_bands_are_read(tmp_path: Path) -> None:
    many = freeda.load("toy", device="cpu")
    many.set_classes([f"thing {number}" for number in range(300)])
    gray = np.random.default_rng(0).integers(0, 255, (1, 90, 70), np.uint8)
    segment_raster(many, write_raster(tmp_path / "a.tif", gray), tmp_path / "labels.tif")
    with rasterio.open(tmp_path / "labels.tif") as labels:
        assert labels.dtypes == ("uint16",) and labels.nodata == 65535
        assert labels.shape == (90, 70)


def test_what_cannot_be_read_is_told(model: freeda.Segmenter, mosaic: np.ndarray, tmp_path: Path) -> None:
    source, out = write_raster(tmp_path / "a.tif", mosaic), tmp_path / "labels.tif"
    with pytest.raises(ImageError, match="has no band 4, only 3; name others"):
        segment_raster(model, source, out, bands=(4, 1, 2))
    with pytest.raises(ConfigError, match="2 bands were named; expected three"):
        segment_raster(model, source, out, bands=(1, 2))
    (tmp_path / "b.tif").write_text("no raster")
    with pytest.raises(ImageError, match="is no readable raster"):
        segment_raster(model, tmp_path / "b.tif", out)
    with pytest.raises(ImageError, match="no raster file"):
        segment_raster(model, tmp_path / "c.tif", out)
    broken = tmp_path / "cut.tif"
    broken.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(ImageError, match="is no readable raster"):
        segment_raster(model, broken, out)
    assert not out.exists() and not list(tmp_path.glob(".*"))


def segment(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["segment", *map(str, arguments), "--classes", CLASSES])


def test_the_command_resumes_and_refuses_other_formats(mosaic: np.ndarray, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name in ("a", "b"):
        write_raster(images / f"{name}.tif", mosaic)
    (images / "c.tif").write_text("no raster")
    first = segment(images, "--format", "geotiff", "--out", out)
    assert first.exit_code == 1
    assert "c.tif' is no readable raster" in first.stderr and "1 of 3 images failed" in first.stderr
    assert {path.name for path in out.iterdir() if path.name[0] != "."} == {
        *("a.json", "a.labels.tif", "b.json", "b.labels.tif")
    }
    summary = json.loads((out / "a.json").read_text())
    assert f"{summary['segments'][0]['label']} {summary['segments'][0]['share']:.0%}" in first.stdout
    (images / "c.tif").unlink()
    again = segment(images, "--format", "geotiff", "--out", out)
    assert again.exit_code == 0
    assert again.stderr == "2 of 2 images were finished already\n"
    other = segment(images / "a.tif", "--format", "geotiff", "--bands", "3,2,1", "--out", out)
    assert other.exit_code == 0 and "finished already" not in other.stderr
    for options, told in (
        (["--format", "geotiff,labels"], "geotiff stands alone"),
        (["--format", "labels", "--bands", "1"], "it is for rasters; add --format geotiff"),
        (["--format", "geotiff", "--bands", "1,2"], "expected three numbers such as 4,3,2, or one"),
    ):
        refused = segment(images, *options, "--out", out)
        assert refused.exit_code == 2
        assert told in " ".join(refused.output.split())
