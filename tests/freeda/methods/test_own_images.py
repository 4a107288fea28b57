"""Own images as prototypes: what is written, and what it changes."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import freeda
from freeda import Mark, MarkedImage, PrototypeIndex, add_images
from freeda.cli import main
from freeda.errors import ConfigError, DatasetError, IndexCorruptError, OutputError
from freeda.index.format import PROTOTYPES, write_manifest
from freeda.index.noun_keys import frequent_nouns
from freeda.methods.freeda.vocabulary import Vocabulary
from freeda.records import PHOTOGRAPH, Reject
from freeda.toyworld.make_examples import EXAMPLES
from tests.freeda.methods.contract import picture

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def image() -> MarkedImage:
    left = np.zeros((56, 70), bool)
    left[:, :30] = True
    dot = np.zeros((56, 70), bool)
    dot[3, 4] = True
    unusable = (Mark("cat", dot), Mark("dog", np.zeros_like(dot)), Mark(" ", left), Mark("cow", left.T))
    marks = (Mark("Cat", left), Mark("zebra", ~left), *unusable)
    return MarkedImage("mine.png", picture(56, 70), marks)


@pytest.fixture(scope="module")
def both(index_folder: Path, image: MarkedImage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index with the images beside its own prototypes."""
    out = tmp_path_factory.mktemp("own") / "both"
    empty = MarkedImage("empty.png", image.pixels, ())
    lost = Reject(caption_id="lost.png", caption="", noun="", reason="no such file")
    added = add_images(index_folder, [image, empty, lost], out, device="cpu")
    assert (added.images, added.prototypes) == (2, 2)
    assert sorted(item.reason for item in added.rejects) == [
        "mark has no name",
        "mask is 56 x 70 px, the image 70 x 56",
        "mask is empty",
        "mask is smaller than a patch of the backbone",
        "no such file",
        "nothing is marked",
    ]
    return out


def rows_of(index: PrototypeIndex, source: str) -> list[int]:
    return [row for row, found in enumerate(index.column("source")) if found == source]


def test_a_mark_becomes_a_prototype(both: Path, index_folder: Path, image: MarkedImage) -> None:
    index, method = PrototypeIndex.open(both, verify=True), freeda.load(index_folder).method
    rows = rows_of(index, PHOTOGRAPH)
    assert index.source_counts() == {"generated": 60, "photograph": 2}
    assert [row["noun"] for row in index.rows(rows, ["noun"])] == ["Cat", "zebra"]
    pixels = torch.from_numpy(image.pixels).permute(2, 0, 1)[None].float() / 255
    size = method.settings.dense_size
    dense = method.backbone.dense_features(pixels, size)[0].numpy()
    columns = (np.arange(70) + 0.5) * dense.shape[2] // 70
    lines = (np.arange(56) + 0.5) * dense.shape[1] // 56
    for row, mark in zip(rows, image.marks[:2], strict=True):
        (held,) = index.rows([row], ["caption_id", "area", "peak", "thumbnail"])
        assert (held["caption_id"], held["peak"]) == ("mine.png", 1.0)
        assert held["area"] == pytest.approx(mark.mask.mean())
        tall, wide = np.nonzero(mark.mask)
        mean = dense[:, lines[tall].astype(int), columns[wide].astype(int)].mean(1)
        np.testing.assert_allclose(index.vectors([row])[0], mean, rtol=0.01, atol=0.01)
        key = method.clip.embed_classes(
            freeda.class_names.parse_classes([mark.name]), method.settings.templates
        )
        np.testing.assert_allclose(index.keys_of([row]), key, atol=1e-5)


def test_images_serve_before_they_are_written(both: Path, index_folder: Path, image: MarkedImage) -> None:
    """As they do in the index that `add_images` writes, but for the rounding of what is stored."""
    plain, written = freeda.load(index_folder), freeda.load(both)
    usable = replace(image, marks=image.marks[:2])
    given = freeda.with_images(plain, [usable])
    classes, pixels = "cat; zebra; grass", picture(60, 80)
    names = ["cat", "zebra", "grass"]
    expected, found, without = (
        segmenter.segment(pixels, classes).score_maps(names) for segmenter in (written, given, plain)
    )
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(found[:2] - without[:2]).max() > 0.01
    np.testing.assert_array_equal(found[2], without[2])
    assert given.identity != plain.identity
    assert given.segment(pixels, classes).explain(5, 5).candidates


def test_whitening_takes_marks_as_it_does_once_they_are_written(
    index_folder: Path, image: MarkedImage, tmp_path: Path
) -> None:
    usable = [
        replace(image, name=name, pixels=np.roll(image.pixels, shift, 1), marks=image.marks[:2])
        for name, shift in (("one.png", 0), ("two.png", 7), ("three.png", 15))
    ]
    freeda.add_images(index_folder, usable, tmp_path / "written")
    plain = freeda.load(index_folder, metric="whitened")
    written = freeda.load(tmp_path / "written", metric="whitened")
    expected, found, without = (
        _inverse_covariance(segmenter.encode_classes("cat; zebra; grass"))
        for segmenter in (written, freeda.with_images(plain, usable), plain)
    )
    scale = np.linalg.norm(expected)
    assert np.linalg.norm(found - expected) < 0.02 * scale
    assert np.linalg.norm(without - expected) > 0.1 * scale


def _inverse_covariance(vocabulary: Vocabulary) -> np.ndarray:
    """What whitening divides by: its directions may turn and their signs change, this does not."""
    assert vocabulary.whitening is not None
    matrix = vocabulary.whitening.matrix.double().numpy()
    return matrix @ matrix.T


def test_a_mark_that_gives_nothing_is_told(index_folder: Path, image: MarkedImage) -> None:
    with pytest.raises(DatasetError, match="'dog' in mine.png gives no prototype: mask is empty; mark more"):
        freeda.with_images(freeda.load(index_folder), [replace(image, marks=image.marks[3:4])])


MANY = """
import os, signal, sys
import numpy as np
import freeda.methods.freeda.own_parts as own_parts
from freeda import Mark, MarkedImage, add_images
from tests.freeda.methods.contract import picture

own_parts.IMAGES_PER_PART = 4

def images():
    for number in range(11):
        if number == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        pixels = picture(56, 56) // (number % 9 + 2)
        name = "" if number == 3 else f"thing {number}"
        yield MarkedImage(f"{number}.png", pixels, (Mark(name, np.ones((56, 56), bool)),))

from freeda.methods.freeda.own_prototypes import of_image
import freeda.methods.freeda.own_prototypes as module
made = []
module.of_image = lambda method, image, built: made.append(image.name) or of_image(method, image, built)
added = add_images(sys.argv[1], images(), sys.argv[2], device="cpu")
print(len(made), added.images, added.prototypes, sorted(item.reason for item in added.rejects))
"""


def test_a_killed_run_goes_on(index_folder: Path, tmp_path: Path) -> None:
    """Killed at the tenth image, after two parts of four; the last images repeat the first ones' pictures."""

    def run(out: Path, killed_at: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", MANY, str(index_folder), str(out), str(killed_at)]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    killed = run(tmp_path / "mine", 9)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list((tmp_path / "mine.parts").glob("*.parquet"))) == 2
    again, at_once = run(tmp_path / "mine", -1), run(tmp_path / "other", -1)
    assert again.stdout == "3 11 10 ['mark has no name']\n", again.stderr
    assert at_once.stdout == "11 11 10 ['mark has no name']\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other"]
    for one, other in zip(
        *(PrototypeIndex.open(tmp_path / name).prototypes() for name in ("mine", "other")), strict=True
    ):
        assert (one.id, one.noun, one.caption_id, one.thumbnail) == (
            other.id,
            other.noun,
            other.caption_id,
            other.thumbnail,
        )
        np.testing.assert_array_equal(one.vector, other.vector)
        np.testing.assert_array_equal(one.key, other.key)


def test_other_files_where_parts_would_be_are_never_touched(
    index_folder: Path, image: MarkedImage, tmp_path: Path
) -> None:
    kept = tmp_path / "mine.parts" / "precious.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(OutputError, match=r"mine.parts' is for parts .* other files \(precious.txt\); move"):
        add_images(index_folder, [image], tmp_path / "mine", device="cpu")
    assert kept.read_text() == "mine"


def test_images_that_would_change_nothing_are_refused(
    index_folder: Path, image: MarkedImage, tmp_path: Path
) -> None:
    usable = [replace(image, marks=image.marks[:1])]
    for settings in ({"retrieval": "region"}, {"own_weight": 0.0}):
        with pytest.raises(ConfigError, match="they would change nothing"):
            freeda.with_images(freeda.load(index_folder, **settings), usable)
    add_images(index_folder, usable, tmp_path / "alone", alone=True, device="cpu")
    with pytest.raises(ConfigError, match="'alone' holds photographs only"):
        freeda.with_images(freeda.load(tmp_path / "alone"), usable)
    with pytest.raises(ConfigError, match="marks are for methods that retrieve; choose freeda"):
        freeda.with_images(freeda.load(method="flowseg"), usable)


def test_results_are_told_apart_by_what_was_marked(index_folder: Path, image: MarkedImage) -> None:
    """Also where image and name are the same."""
    model, (left, right) = freeda.load(index_folder), image.marks[:2]
    one, other = (
        freeda.with_images(model, [replace(image, marks=(Mark("cat", mark.mask),))]) for mark in (left, right)
    )
    assert one.identity != other.identity
    both = freeda.with_images(one, [replace(image, marks=(Mark("cat", right.mask),))])
    again = freeda.with_images(both, [replace(image, marks=(Mark("cat", right.mask),))])
    assert len(both.identity["own"]) == 2 and again.identity == both.identity


def test_names_are_the_same_however_their_accents_are_written(index_folder: Path, image: MarkedImage) -> None:
    model, pixels = freeda.load(index_folder), picture(60, 80)
    composed, apart = (
        freeda.with_images(model, [replace(image, marks=(Mark(name, image.marks[0].mask),))])
        .segment(pixels, "gizm\u00f3; grass")
        .score_maps(["gizm\u00f3"])
        for name in ("gizm\u00f3", "gizmo\u0301")
    )
    np.testing.assert_array_equal(composed, apart)
    assert np.abs(apart - model.segment(pixels, "gizm\u00f3; grass").score_maps(["gizm\u00f3"])).max() > 0.01


def test_a_damaged_part_is_told(index_folder: Path, image: MarkedImage, tmp_path: Path) -> None:
    (tmp_path / "mine.parts").mkdir()
    (tmp_path / "mine.parts" / "000000.parquet").write_bytes(b"no parquet")
    with pytest.raises(OutputError, match=r"000000.parquet' cannot be read: .*; remove it, and run"):
        add_images(index_folder, [image], tmp_path / "mine", device="cpu")


def test_the_same_image_twice_adds_nothing(both: Path, image: MarkedImage, tmp_path: Path) -> None:
    added = add_images(both, [image, image], tmp_path / "again", device="cpu")
    assert (added.manifest.prototypes, added.prototypes) == (62, 0)
    assert sum(item.reason == "the same mark again" for item in added.rejects) == 2


def test_only_classes_of_that_name_change(both: Path, index_folder: Path) -> None:
    before, after = freeda.load(index_folder, device="cpu"), freeda.load(both, device="cpu")
    names = "dog; feline, CAT; sky"
    old, new = before.encode_classes(names), after.encode_classes(names)
    for row in (0, 2):
        np.testing.assert_array_equal(old.prototypes[row], new.prototypes[row])
    (own,) = after.method.index.photographs_of(["cat"])
    looks = after.method.index.vectors([own])[0]
    mixed = 0.8 * looks / np.linalg.norm(looks) + 0.2 * old.prototypes[1].numpy()
    np.testing.assert_allclose(new.prototypes[1], mixed / np.linalg.norm(mixed), atol=1e-6)
    assert own in new.retrieved.rows[1] and own not in new.retrieved.rows[0]
    for weight, expected in ((0.0, old.prototypes[1].numpy()), (1.0, looks / np.linalg.norm(looks))):
        weighted = freeda.load(both, device="cpu", own_weight=weight).encode_classes(names)
        np.testing.assert_allclose(weighted.prototypes[1], expected, atol=1e-6)


def test_a_photograph_is_shown_as_what_decided(both: Path) -> None:
    model = freeda.load(both, device="cpu", own_weight=1.0)
    votes = model.segment(picture(56, 70), "cat").explain(5, 30).votes
    own = set(rows_of(model.method.index, PHOTOGRAPH))
    assert {vote.row for vote in votes} & own


def test_many_photographs_do_not_crowd_out_what_was_generated(index_folder: Path, tmp_path: Path) -> None:
    images = [
        MarkedImage(f"{n}.png", picture(56, 56) // (n + 2), (Mark("cat", np.ones((56, 56), bool)),))
        for n in range(90)
    ]
    add_images(index_folder, images, tmp_path / "many", device="cpu")
    settings = {"device": "cpu", "own_weight": 0.0, "neighbors": 5}
    before, after = (freeda.load(path, **settings) for path in (index_folder, tmp_path / "many"))
    old, new = before.encode_classes("cat; dog; sky"), after.encode_classes("cat; dog; sky")
    np.testing.assert_array_equal(old.retrieved.rows, new.retrieved.rows)


def test_photographs_alone_are_an_index_like_others(
    index_folder: Path, image: MarkedImage, tmp_path: Path
) -> None:
    added = add_images(index_folder, [image], tmp_path / "alone", alone=True, device="cpu")
    assert added.manifest.prototypes == 2
    index = PrototypeIndex.open(tmp_path / "alone")
    assert index.source_counts() == {"photograph": 2} and not index.set_apart.any()
    model = freeda.load(tmp_path / "alone", device="cpu")
    assert set(model.segment(picture(56, 70), "cat; zebra").labels.ravel()) <= {0, 1}
    read = iter([image])
    with pytest.raises(OutputError, match="holds an index already; replace it with --overwrite"):
        add_images(index_folder, read, tmp_path / "alone", alone=True, device="cpu")
    assert next(read) is image, "nothing is read before the place is known to be free"
    with pytest.raises(OutputError, match="is the index that is read; choose another --out"):
        add_images(tmp_path / "alone", read, tmp_path / "alone", alone=True, overwrite=True, device="cpu")
    add_images(index_folder, [image], tmp_path / "alone", alone=True, overwrite=True, device="cpu")


def test_names_are_stored_without_spaces_around_them(
    index_folder: Path, image: MarkedImage, tmp_path: Path
) -> None:
    spaced = replace(image, marks=(Mark(" hot  dog ", image.marks[0].mask),))
    add_images(index_folder, [spaced], tmp_path / "spaced", device="cpu")
    index = PrototypeIndex.open(tmp_path / "spaced")
    assert len(index.photographs_of(["hot dog"])) == 1
    assert "hot dog" not in frequent_nouns(index, 500).names


def test_an_unknown_source_is_damage(both: Path, tmp_path: Path) -> None:
    index = PrototypeIndex.open(both)
    folder = tmp_path / "crafted"
    folder.mkdir()
    for name in index.manifest.files:
        (folder / name).write_bytes((both / name).read_bytes())
    held = pa.ipc.open_file(both / PROTOTYPES).read_all()
    sources = pa.array([None, "elsewhere"] + ["generated"] * (len(held) - 2))
    held = held.set_column(held.schema.get_field_index("source"), "source", sources)
    with pa.OSFile(str(folder / PROTOTYPES), "wb") as sink, pa.ipc.new_file(sink, held.schema) as writer:
        writer.write_table(held)
    write_manifest(folder, index.manifest)
    with pytest.raises(IndexCorruptError, match="prototypes of an unknown source"):
        PrototypeIndex.open(folder).read_everything()


def test_images_without_a_usable_mark_are_an_error(
    index_folder: Path, image: MarkedImage, tmp_path: Path
) -> None:
    useless = replace(image, marks=image.marks[2:])
    with pytest.raises(DatasetError, match="1 images gave no prototype, most often because: mask is"):
        add_images(index_folder, [useless], tmp_path / "none", device="cpu")
    assert not (tmp_path / "none").exists()


def test_an_index_of_format_2_has_generated_prototypes_only(index_folder: Path, tmp_path: Path) -> None:
    index = PrototypeIndex.open(index_folder)
    folder = tmp_path / "old"
    folder.mkdir()
    for name in index.manifest.files:
        (folder / name).write_bytes((index_folder / name).read_bytes())
    held = pa.ipc.open_file(index_folder / PROTOTYPES).read_all().drop_columns(["source"])
    with pa.OSFile(str(folder / PROTOTYPES), "wb") as sink, pa.ipc.new_file(sink, held.schema) as writer:
        for batch in held.to_batches():
            writer.write_batch(batch)
    write_manifest(folder, replace(index.manifest, format=2))
    old = PrototypeIndex.open(folder, verify=True)
    old.read_everything()
    assert old.source_counts() == {"generated": 60} and not old.set_apart.any()
    assert next(old.prototypes()).source == "generated"
    expected, found = (
        freeda.load(path, device="cpu").encode_classes("cat;dog") for path in (index_folder, folder)
    )
    np.testing.assert_array_equal(expected.prototypes, found.prototypes)


def test_the_command_says_what_it_added(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    masks.mkdir()
    images.mkdir()
    for number in (1, 2):
        shown = Image.open(EXAMPLES / f"scene-{number}.png")
        shown.save(images / f"{number}.png")
        Image.new("L", shown.size, number - 1).save(masks / f"{number}.png")
    (images / "broken.png").write_bytes(b"no picture")
    fixed = ["index", "add-images", "toy", str(images), "--device", "cpu", "--out", str(tmp_path / "mine")]
    done = CliRunner().invoke(main, [*fixed, "--masks", str(masks), "--classes", "sky; gravel"])
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'mine'}: 1,526 prototypes" in done.stdout
    assert "(2 from 2 of your images)" in done.stdout
    assert "left out: 1 x" in done.stderr and "broken.png" in done.stderr
    told = CliRunner().invoke(main, ["index", "info", str(tmp_path / "mine")])
    assert "2 of them are of photographs" in told.stdout
    for words in (
        [],
        ["--masks", "m"],
        ["--classes", "cat", "--coco", "c"],
        ["--coco", "c", "--label-studio", "l"],
    ):
        assert CliRunner().invoke(main, [*fixed, *words]).exit_code == 2
