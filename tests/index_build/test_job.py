"""Real Dask clusters of real processes; real kill signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster

import freeda
from freeda.errors import (
    CaptionsError,
    ConfigError,
    IndexCorruptError,
    IndexMismatchError,
    OutputError,
    WorkerError,
)
from freeda.index.format import MANIFEST
from freeda.index.reader import PrototypeIndex
from freeda.locking import locked
from freeda.presets.settings import Preset
from index_build import BuildConfig, BuildSummary, Resources, build_index
from index_build.append import append
from index_build.cluster.progress import Progress
from index_build.config import CaptionColumns
from tests.freeda.fuzzing import signed
from tests.index_build.conftest import OWN, contents, write_captions

pytestmark = pytest.mark.filterwarnings("ignore")


def command(captions: Path, out: Path, preset: Path) -> list[str]:
    options = ["--preset", str(preset), "--shard-size", "1", "--threads", "1", "--device", "cpu", "--json"]
    return [sys.executable, "-m", "freeda.cli", "build-index", str(captions), "--out", str(out), *options]


def test_the_summary_counts_everything(summary: BuildSummary) -> None:
    folder = Path(summary.out)
    index = PrototypeIndex.open(folder, verify=True)
    rejects = pq.read_table(folder / "rejects.parquet").to_pylist()
    assert summary.captions == 7
    assert summary.images == 5
    assert summary.prototypes == len(index)
    assert summary.rejects == dict(Counter(row["reason"] for row in rejects))
    assert summary.rejects["empty caption"] == 1
    assert summary.rejects["no nouns"] == 1
    assert set(summary.seconds) >= {"generation", "features", "localisation", "keys"}
    assert not (folder / ".work").exists()
    assert (folder / "report.html").read_text().count("data:image/webp") == 5
    ids = [row["id"] for row in index.rows(range(len(index)), ["id"])]
    assert ids == sorted(ids, key=lambda name: int(name[1]))


def test_killed_and_run_again_it_ends_the_same(
    captions: Path,
    undisturbed: Path,
    config: BuildConfig,
    preset_file: Path,
    shared: Resources,
    tmp_path: Path,
) -> None:
    out = tmp_path / "index"
    process = subprocess.Popen(
        command(captions, out, preset_file),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not list(out.glob(".work/*/shard-*.done.json")):
        assert time.monotonic() < deadline, "no shard was finished"
        assert process.poll() is None, "the build ended before it could be killed"
        time.sleep(0.02)
    with pytest.raises(OutputError, match=f"another run is writing '{out}'"):
        build_index(str(captions), out, config, resources=shared)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    shard = next(out.glob(".work/*/shard-00000000.parquet"))
    shard.write_bytes(shard.read_bytes()[:-100])  # what a power cut may leave
    marker = shard.with_name("shard-00000004.done.json")
    marker.write_bytes(shard.with_name("shard-00000000.done.json").read_bytes()[:30])
    assert not (out / "manifest.json").exists()
    with pytest.raises((IndexCorruptError, FileNotFoundError)):
        PrototypeIndex.open(out)

    again = subprocess.run(command(captions, out, preset_file), capture_output=True, text=True, check=True)
    summary = json.loads(again.stdout)
    assert summary["damaged_shards"] == 2
    records = [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]
    assert (records[-1]["done"], records[-1]["total"], records[-1]["images"]) == (7, 7, 5)
    assert records[-1]["prototypes"] == summary["prototypes"]
    assert any("busy" in record["workers"].values() for record in records)
    assert summary["images"] == 5
    assert contents(out) == contents(undisturbed)
    assert build_index(str(captions), out, config, resources=shared).already_built


def test_four_workers_build_the_same_prototypes(
    captions: Path, undisturbed: Path, config: BuildConfig, tmp_path: Path
) -> None:
    build_index(str(captions), tmp_path / "index", config, resources=replace(OWN, workers=4))
    one, four = PrototypeIndex.open(undisturbed), PrototypeIndex.open(tmp_path / "index")
    numbers = range(len(one))
    columns = ["id", "noun", "caption", "seed"]
    assert one.rows(numbers, columns) == four.rows(range(len(four)), columns)
    np.testing.assert_allclose(one.vectors(numbers), four.vectors(numbers), atol=2e-2)


def test_a_cluster_that_exists_with_several_threads_per_worker(
    captions: Path, undisturbed: Path, config: BuildConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads of one worker share its models, and must take turns; --out may be relative."""
    monkeypatch.chdir(tmp_path)
    with LocalCluster(n_workers=1, threads_per_worker=3, dashboard_address=None) as cluster:
        resources = Resources(scheduler=cluster.scheduler_address, device="cpu")
        build_index(str(captions), "index", config, resources=resources)
    one, three = PrototypeIndex.open(undisturbed), PrototypeIndex.open(tmp_path / "index")
    numbers = range(len(one))
    assert one.rows(numbers, ["id", "seed"]) == three.rows(range(len(three)), ["id", "seed"])
    np.testing.assert_allclose(one.vectors(numbers), three.vectors(numbers), atol=2e-2)


def test_a_scheduler_that_does_not_answer_is_named(
    tiny_preset: Preset, captions_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index_build.cluster.connection._ANSWER_SECONDS", 2)
    nobody = Resources(scheduler="tcp://127.0.0.1:9")
    with pytest.raises(WorkerError, match="no Dask scheduler answers at 'tcp://127.0.0.1:9'"):
        build_index(str(captions_file), tmp_path / "out", BuildConfig(preset=tiny_preset), resources=nobody)


def test_other_keys_are_refused_and_change_nothing(
    captions: Path, undisturbed: Path, config: BuildConfig, shared: Resources, tmp_path: Path
) -> None:
    out = tmp_path / "index"
    shutil.copytree(undisturbed, out)
    online = replace(config.preset.segmentation, neighbors=7)
    changed = replace(config, preset=replace(config.preset, segmentation=online))
    with pytest.raises(OutputError, match="keys as Flat; `freeda index merge"):
        build_index(str(captions), out, changed, resources=shared, factory="HNSW8")
    assert contents(out) == contents(undisturbed)
    assert build_index(str(captions), out, changed, resources=shared).already_built
    assert PrototypeIndex.open(out).preset.segmentation.neighbors == 7


def test_models_that_a_build_does_not_use_make_no_other_build(
    captions: Path, undisturbed: Path, config: BuildConfig, shared: Resources, tmp_path: Path
) -> None:
    models = {**config.preset.models, "segment-anything": ("./nowhere",)}
    more = replace(config, preset=replace(config.preset, models=models))
    build_index(str(captions), tmp_path / "index", more, resources=shared)
    manifest = PrototypeIndex.open(tmp_path / "index", verify=True).manifest
    assert manifest.build_fingerprint == PrototypeIndex.open(undisturbed).manifest.build_fingerprint
    assert list(manifest.preset["models"])[-1] == "segment-anything"
    with pytest.raises(ConfigError, match="has no backbone model"):
        replace(config, preset=replace(config.preset, models={"diffusion": ("-",), "clip": ("-",)}))


def test_another_build_s_index_is_replaced_on_request_only(
    captions: Path, undisturbed: Path, config: BuildConfig, shared: Resources, tmp_path: Path
) -> None:
    out = tmp_path / "index"
    shutil.copytree(undisturbed, out)
    second = replace(config, seed=1)
    before = contents(out)
    with pytest.raises(OutputError, match=r"another build \(seed 0 -> 1\).*--overwrite"):
        build_index(str(captions), out, second, resources=shared)
    assert contents(out) == before
    left = out / ".work" / "0123456789abcdef" / "build.json"
    left.parent.mkdir(parents=True)
    left.write_text('{"seed": 5}')
    seen: list[Progress] = []
    build_index(str(captions), out, second, resources=shared, overwrite=True, on_progress=seen.append)
    assert PrototypeIndex.open(out).manifest.seed == 1
    (note,) = (item.note for item in seen if "not resumed" in item.note)
    assert note.startswith("unfinished build 0123456789abcdef is kept but not resumed: ")
    assert left.exists()


def test_captions_without_any_noun_build_nothing(
    config: BuildConfig, shared: Resources, tmp_path: Path
) -> None:
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"caption": ["slowly", "quickly and well"]}), path)
    with pytest.raises(CaptionsError, match=r"no caption gave a prototype \(2 x no nouns\)"):
        build_index(str(path), tmp_path / "out", config, resources=shared)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_unwritable_place_is_named(tiny_preset: Preset, captions_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot create"):
        build_index(str(captions_file), tmp_path / "file" / "out", BuildConfig(preset=tiny_preset))


def test_appended_captions_join_the_index_as_if_they_had_always_been_there(
    captions: Path, undisturbed: Path, shared: Resources, tmp_path: Path
) -> None:
    rows = [*pq.read_table(captions).to_pylist(), {"id": "late", "caption": "very " * 45 + "near a dog"}]
    more = tmp_path / "more.parquet"
    pq.write_table(pa.Table.from_pylist(rows), more)
    config = BuildConfig(preset=freeda.load_preset("tiny"), shard_size=1, limit=4)
    build_index(str(captions), tmp_path / "index", config, resources=shared)
    # As a process leaves it that dies while the grown index takes the old one's place.
    (tmp_path / "index").rename(tmp_path / ".index.replaced")
    with (
        locked(tmp_path / "index"),
        pytest.raises(OutputError, match="another run is writing"),
    ):
        append(tmp_path / "index", str(more), CaptionColumns(), resources=shared)
    done = append(tmp_path / "index", str(more), CaptionColumns(), resources=shared)
    one, grown = PrototypeIndex.open(undisturbed), PrototypeIndex.open(tmp_path / "index", verify=True)
    assert done.addition is not None
    assert done.addition.images == 2  # those of the first build are not generated again
    assert done.addition.rejects[TOO_LONG] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "more.parquet"]
    columns = ["id", "noun", "caption", "seed"]
    assert grown.rows(range(len(grown)), columns) == one.rows(range(len(one)), columns)
    np.testing.assert_allclose(grown.vectors(range(len(one))), one.vectors(range(len(one))), atol=2e-2)
    again = append(tmp_path / "index", str(more), CaptionColumns(), resources=shared)
    assert again.addition is None
    assert "no nouns" in again.note
    assert again.manifest == grown.manifest
    assert TOO_LONG not in again.note  # neither prototypes nor rejects are drawn again


def test_appended_captions_without_a_prototype_are_remembered(
    undisturbed: Path, shared: Resources, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    shutil.copytree(undisturbed, index)
    more = tmp_path / "more.parquet"
    pq.write_table(pa.table({"id": ["late"], "caption": ["very " * 45 + "near a dog"]}), more)
    done = append(index, str(more), CaptionColumns(), resources=shared)
    assert done.addition is None
    rejects = pq.read_table(index / "rejects.parquet").to_pylist()
    assert [row["reason"] for row in rejects if row["caption_id"] == "late"] == [TOO_LONG]
    assert len(PrototypeIndex.open(index, verify=True)) == len(PrototypeIndex.open(undisturbed))
    again = append(index, str(more), CaptionColumns(), resources=shared)
    assert again.note == "all captions were in it already"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "more.parquet"]


@pytest.mark.parametrize("precision", ["float8", "unknown (imported)", None])
def test_an_index_whose_precision_nobody_can_run_is_not_appended_to(
    undisturbed: Path, tmp_path: Path, precision: str | None
) -> None:
    shutil.copytree(undisturbed, tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / MANIFEST).read_text())
    prints = {**manifest["fingerprints"], "precision": precision}
    if precision is None:
        del prints["precision"]
    (tmp_path / "index" / MANIFEST).write_bytes(signed({**manifest, "fingerprints": prints}))
    more = tmp_path / "more.parquet"
    pq.write_table(pa.table({"caption": ["a dog"]}), more)
    with pytest.raises(IndexMismatchError, match="was built in precision .*; expected one of auto, float32"):
        append(tmp_path / "index", str(more), CaptionColumns())


_THINGS = ("cat", "dog", "bird", "tree", "boat", "clock", "apple", "lamp")
_THINGS += ("horse", "chair", "table", "spoon", "fork", "knife", "car", "train")
ODD_ROWS = {
    "null": None,
    "empty": "",
    "spaces": " \t\n ",
    "long": "a cat on the grass and " * 450,
    "control": "a \x00 cat \x07 on \x1b[31m the grass",
    "right to left": "قطة على العشب a cat",
    "emoji": "🐱 a cat 🐶 and a dog 🎉",
    "accents": "a café, a naïve piñata and a jalapeño",
    "surplus": "photo of photo of photo",
    "no nouns": "slowly and quietly",
    "sixty nouns": " and ".join(f"a {thing}" for thing in (4 * _THINGS)[:60]),
    "html": "<b>a dog</b> &amp; a cat",
    "digits": "12345 67890",
    "wrapping": "a cat\non the\r\ngrass",
}
TOO_LONG = "noun not within the first 40 tokens"


def test_odd_rows_end_as_prototypes_or_counted_rejects(
    config: BuildConfig, shared: Resources, tmp_path: Path
) -> None:
    ids, texts = [*ODD_ROWS, "null", "again"], [*ODD_ROWS.values(), "a dog", "a dog"]
    captions, out = tmp_path / "odd.parquet", tmp_path / "index"
    pq.write_table(pa.table({"id": ids, "caption": texts}), captions)
    summary = build_index(str(captions), out, replace(config, shard_size=32), resources=shared)
    assert summary.captions == len(ids)
    rejects = pq.read_table(out / "rejects.parquet").to_pylist()
    index = PrototypeIndex.open(out, verify=True)
    made = {(row["caption_id"], row["noun"]) for row in index.rows(range(len(index)), ["caption_id", "noun"])}
    refused = {(row["caption_id"], row["noun"]) for row in rejects}
    assert not made & refused
    assert {name for name, _ in made | refused} == set(ids)
    assert {(row["caption_id"], row["reason"]) for row in rejects if row["reason"] != TOO_LONG} == {
        ("null", "empty caption"),
        ("empty", "empty caption"),
        ("spaces", "empty caption"),
        ("null", "duplicate id"),
        ("surplus", "no nouns"),
        ("no nouns", "no nouns"),
        ("digits", "no nouns"),
        ("html", "noun not among CLIP's tokens"),  # "amp", which CLIP reads as a sign
    }
    assert {("long", "cat"), ("control", "cat"), ("right to left", "cat"), ("wrapping", "grass")} <= made
    assert ("html", "cat") in made
    assert {("emoji", "cat"), ("emoji", "dog"), ("again", "dog")} <= made
    assert {row["caption_id"] for row in rejects if row["reason"] == TOO_LONG} == {"sixty nouns"}
    assert len([item for item in made | refused if item[0] == "sixty nouns"]) == len(_THINGS)


def test_captions_that_change_while_they_are_built_are_not_mixed(
    config: BuildConfig, shared: Resources, tmp_path: Path
) -> None:
    source = write_captions(tmp_path / "captions.parquet", ["a cat", "a dog", "an owl"])

    def replace_captions(progress: Progress) -> None:
        if progress.note:
            write_captions(tmp_path / "new.parquet", ["a cat", "a bus"])
            (tmp_path / "new.parquet").replace(source)

    with pytest.raises(CaptionsError, match=r"changed while the build ran .3 rows before, 2 now."):
        build_index(str(source), tmp_path / "i", config, resources=shared, on_progress=replace_captions)
    assert not (tmp_path / "i" / "manifest.json").exists()
    assert not list(tmp_path.glob("i/.work/*"))
    assert build_index(str(source), tmp_path / "i", config, resources=shared).captions == 2


def test_an_index_does_not_tell_where_its_models_lay(undisturbed: Path, tiny_preset: Preset) -> None:
    text = (undisturbed / "manifest.json").read_text() + (undisturbed / "README.md").read_text()
    for ids in tiny_preset.models.values():
        assert ids[0] not in text
        assert f"local:{Path(ids[0]).name}" in text
    assert freeda.load(undisturbed).segment(np.zeros((60, 60, 3), np.uint8), "cat").labels.shape == (60, 60)
