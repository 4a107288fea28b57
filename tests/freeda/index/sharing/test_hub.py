"""Indexes on a hub that speaks the real client's protocol, each command in a process of its own."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from freeda.index.finding import find_index
from freeda.index.format import FILES, MANIFEST
from freeda.index.reader import PrototypeIndex
from freeda.toyworld.make_examples import EXAMPLES
from tests.freeda.index.sharing.hub import TOKEN, Hub, running

TOY = find_index("toy")
SCENE = EXAMPLES / "scene-1.png"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running(Hub()) as server:
        yield server


@pytest.fixture
def published(hub: Hub) -> Hub:
    """A hub with the toy index, as files, without going through `push`."""
    from tests.freeda.index.sharing.hub import Repository

    hub.repositories["ann/toy"] = Repository(private=False)
    files = {name: (TOY / name).read_bytes() for name in (*FILES, MANIFEST)}
    hub.repositories["ann/toy"].commit("main", {**files, "evil.py": b"print('run')"})
    return hub


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    """A machine's: its own freeda home and cache, and the stand-in as its hub."""
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "FREEDA_HOME": str(home / "freeda")}
    return {**os.environ, **own, "HF_HUB_DISABLE_XET": "1", **more}


def freeda(hub: Hub, home: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "freeda.cli", *map(str, arguments)]
    return subprocess.run(command, env=environment(hub, home, **more), capture_output=True, text=True)


def test_what_is_pushed_is_pulled_and_segments_alike(hub: Hub, tmp_path: Path) -> None:
    pushed = freeda(
        hub,
        tmp_path / "ann",
        *("index", "push", "toy", "ann/scenes", "--captions-from", "A grammar | <b>drawn</b>"),
        HF_TOKEN=TOKEN,
    )
    assert pushed.returncode == 0, pushed.stderr
    repository = hub.repositories["ann/scenes"]
    commit, files = repository.files("main") or ("", {})
    assert pushed.stdout.splitlines() == [
        f"{hub.url}/datasets/ann/scenes",
        f"use it with --index hf://ann/scenes@{commit}",
    ]
    assert set(files) == {*FILES, MANIFEST, "prototypes.parquet", ".gitattributes"}
    for name in set(FILES) - {"README.md"}:
        assert files[name] == (TOY / name).read_bytes()
    _check_card(files["README.md"].decode())
    _check_viewer(files["prototypes.parquet"])
    place = tmp_path / "bob"
    done = freeda(
        hub,
        place,
        *("segment", EXAMPLES / "scene-1.png", "--classes", EXAMPLES / "classes.txt", "--out", place / "out"),
        *("--index", "hf://ann/scenes", "--format", "labels"),
    )
    assert done.returncode == 0, done.stderr
    local = freeda(
        hub,
        place,
        *("segment", EXAMPLES / "scene-1.png", "--classes", EXAMPLES / "classes.txt", "--out", place / "own"),
        *("--format", "labels"),
    )
    assert local.returncode == 0, local.stderr
    labels = [np.asarray(Image.open(place / name / "scene-1.labels.png")) for name in ("out", "own")]
    np.testing.assert_array_equal(*labels)
    shown = freeda(hub, place, "index", "info", "hf://ann/scenes")
    assert f"fetched from hf://ann/scenes@main ({commit[:12]}, fetched 20" in shown.stdout


def _check_card(text: str) -> None:
    card = DatasetCard(text)
    assert card.data.license == "other"
    assert card.data.size_categories == "1K<n<10K"
    assert card.data.task_categories == ["image-segmentation"]
    assert card.data.configs == [{"config_name": "prototypes", "data_files": "prototypes.parquet"}]
    index = PrototypeIndex.open("toy")
    assert (card.data.prototypes, card.data.captions) == (len(index), index.manifest.captions)
    assert r"Where they came from: A grammar \| &lt;b&gt;drawn&lt;/b&gt;." in text
    assert "--index hf://ann/scenes" in text
    assert next(index.column("caption")) in text


def _check_viewer(content: bytes) -> None:
    table, index = pq.read_table(io.BytesIO(content)), PrototypeIndex.open("toy")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert list(features) == table.column_names
    assert features["thumbnail"] == {"_type": "Image"}
    assert table.column("noun").to_pylist() == list(index.column("noun"))
    picture = Image.open(io.BytesIO(table.column("thumbnail")[5].as_py()["bytes"]))
    assert picture.format == "WEBP"


def test_only_the_files_of_an_index_are_fetched_and_only_once(published: Hub, tmp_path: Path) -> None:
    first = freeda(published, tmp_path, "index", "pull", "hf://ann/toy")
    assert first.returncode == 0, first.stderr
    assert sorted(set(published.fetched())) == sorted([*FILES, MANIFEST])
    commit, _ = published.repositories["ann/toy"].files("main") or ("", {})
    folder = tmp_path / "freeda" / "fetched" / "hub" / "ann--toy" / commit
    assert f"{folder}: {len(PrototypeIndex.open('toy')):,} prototypes" in first.stdout
    assert not list(folder.rglob("*.py"))
    assert json.loads((folder / "source.json").read_text())["version"] == commit
    published.asked.clear()
    again = freeda(published, tmp_path, "index", "verify", "hf://ann/toy")
    assert again.returncode == 0, again.stderr
    assert [path for _, path, _ in published.asked] == ["/api/datasets/ann/toy/revision/main"]
    published.asked.clear()
    to = ("--out", tmp_path / "out")
    used = freeda(published, tmp_path, "segment", SCENE, "--classes", "owl", *to, "--index", "hf://ann/toy")
    assert used.returncode == 0, used.stderr
    assert [path for _, path, _ in published.asked] == ["/api/datasets/ann/toy/revision/main"]
    published.asked.clear()
    pinned = freeda(published, tmp_path, "index", "verify", f"hf://ann/toy@{commit}")
    assert pinned.returncode == 0
    assert published.asked == []


def test_an_index_can_be_copied_and_its_copy_in_the_cache_is_left_alone(
    published: Hub, captions_file: Path, tmp_path: Path
) -> None:
    copied = freeda(published, tmp_path, "index", "pull", "hf://ann/toy", "--out", tmp_path / "mine")
    assert copied.returncode == 0, copied.stderr
    assert len(PrototypeIndex.open(tmp_path / "mine", verify=True)) == len(PrototypeIndex.open("toy"))
    again = freeda(published, tmp_path, "index", "pull", "hf://ann/toy", "--out", tmp_path / "mine")
    assert again.returncode == 1 and "replace it with --overwrite" in again.stderr
    grown = freeda(published, tmp_path, "index", "append", "hf://ann/toy", captions_file)
    assert grown.returncode == 1
    assert "is a copy of hf://ann/toy@main; take one of your own first: `freeda index pull" in grown.stderr


def test_without_the_hub_the_last_commit_is_taken_and_told(published: Hub, tmp_path: Path) -> None:
    assert freeda(published, tmp_path, "index", "pull", "hf://ann/toy").returncode == 0
    published.url = "http://127.0.0.1:9"
    alone = freeda(published, tmp_path, "index", "verify", "hf://ann/toy")
    assert alone.returncode == 0, alone.stderr
    (told,) = alone.stderr.splitlines()
    assert told.startswith("warning: hf://ann/toy@main: the hub cannot be reached")
    assert "taking what was fetched before: hf://ann/toy@main" in told
    other = freeda(published, tmp_path, "index", "verify", "hf://ann/other")
    assert other.returncode == 1
    assert other.stderr.startswith("error: hf://ann/other@main: the hub cannot be reached")
    assert len(other.stderr.splitlines()) == 1


def test_an_index_that_was_withdrawn_is_no_longer_taken(published: Hub, tmp_path: Path) -> None:
    assert freeda(published, tmp_path, "index", "pull", "hf://ann/toy").returncode == 0
    del published.repositories["ann/toy"]
    gone = freeda(published, tmp_path, "index", "verify", "hf://ann/toy")
    assert gone.returncode == 1 and "the hub has no such data set" in gone.stderr


def test_a_damaged_copy_is_fetched_again_by_pull(published: Hub, tmp_path: Path) -> None:
    assert freeda(published, tmp_path, "index", "pull", "hf://ann/toy").returncode == 0
    (keys,) = tmp_path.rglob("keys.faiss")
    content = keys.read_bytes()
    keys.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = freeda(published, tmp_path, "index", "pull", "hf://ann/toy")
    assert again.returncode == 0, again.stderr
    assert "fetching it again" in again.stderr
    assert keys.read_bytes() == content


def test_two_at_a_time_fetch_once(published: Hub, tmp_path: Path) -> None:
    published.slow = 0.0005
    command = [sys.executable, "-m", "freeda.cli", "index", "pull", "hf://ann/toy"]
    both = [
        subprocess.Popen(command, env=environment(published, tmp_path), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        _, told = process.communicate(timeout=100)
        assert process.returncode == 0, told
    assert published.fetched().count("prototypes.arrow") == 1


def test_files_larger_than_their_manifest_says_are_not_fetched(published: Hub, tmp_path: Path) -> None:
    sound = (TOY / "keys.faiss").read_bytes()
    published.repositories["ann/toy"].commit("main", {"keys.faiss": sound + bytes(1_000_000)})
    told = freeda(published, tmp_path, "index", "pull", "hf://ann/toy")
    assert told.returncode == 1 and f"has more than {len(sound):,} bytes" in told.stderr
    assert "keys.faiss" not in published.fetched()


def test_what_was_to_be_private_is_not_pushed_for_all_to_see(published: Hub, tmp_path: Path) -> None:
    arguments = ("index", "push", "toy", "ann/toy", "--private")
    told = freeda(published, tmp_path, *arguments, HF_TOKEN=TOKEN)
    assert told.returncode == 1 and "is there already and public" in told.stderr
    assert len(published.repositories["ann/toy"].commits) == 1
    fresh = freeda(published, tmp_path, "index", "push", "toy", "ann/own", "--private", HF_TOKEN=TOKEN)
    assert fresh.returncode == 0 and published.repositories["ann/own"].private


def test_files_that_were_changed_on_the_hub_are_refused(published: Hub, tmp_path: Path) -> None:
    repository = published.repositories["ann/toy"]
    sound = (TOY / "prototypes.arrow").read_bytes()
    repository.commit("main", {"prototypes.arrow": sound[:-1] + bytes([sound[-1] ^ 1])})
    told = freeda(published, tmp_path, "index", "pull", "hf://ann/toy")
    assert told.returncode == 1
    assert "is not the index that its manifest tells of" in told.stderr
    assert "prototypes.arrow" in told.stderr and len(told.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("prototypes.arrow"))
    repository.commit("main", {"prototypes.arrow": sound})
    assert freeda(published, tmp_path, "index", "pull", "hf://ann/toy").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pull", "hf://ann/nothing"], "the hub has no such data set, or shows it to others only"),
        (["pull", "hf://ann/toy@v9"], "hf://ann/toy@v9: the hub knows no such revision"),
        (["pull", "hf://ann/empty"], "manifest.json of hf://ann/empty@main is not there; is it an index?"),
        (["pull", "hf://ann"], "is no address of an index; expected hf://USER/NAME"),
        (["pull", "s3://bucket/toy"], "is no address of an index; expected hf://USER/NAME"),
        (["pull", "http://example.org/toy"], "can be changed on its way; name an https:// address"),
        (["push", "toy", "toy"], "'toy' is no name of a repository; expected USER/NAME"),
        (["push", "toy", "ann/new"], "401"),
    ],
)
def test_what_cannot_be_pulled_or_pushed_is_one_line(
    published: Hub, tmp_path: Path, arguments: list[str], told: str
) -> None:
    from tests.freeda.index.sharing.hub import Repository

    published.repositories["ann/empty"] = Repository(private=False)
    published.repositories["ann/empty"].commit("main", {"a.txt": b""})
    done = freeda(published, tmp_path, "index", *arguments)
    assert done.returncode == 1
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_private_index_needs_the_token(published: Hub, tmp_path: Path) -> None:
    published.repositories["ann/toy"].private = True
    assert "hf auth login" in freeda(published, tmp_path, "index", "pull", "hf://ann/toy").stderr
    assert freeda(published, tmp_path, "index", "pull", "hf://ann/toy", HF_TOKEN=TOKEN).returncode == 0


def test_a_branch_is_pushed_and_pulled(hub: Hub, tmp_path: Path) -> None:
    for branch in ("main", "small"):
        done = freeda(hub, tmp_path, "index", "push", "toy", "ann/toy", "--revision", branch, HF_TOKEN=TOKEN)
        assert done.returncode == 0, done.stderr
    assert set(hub.repositories["ann/toy"].branches) == {"main", "small"}
    assert freeda(hub, tmp_path, "index", "pull", "hf://ann/toy@small").returncode == 0


def test_a_file_whose_connection_breaks_is_asked_for_again(published: Hub, tmp_path: Path) -> None:
    size = (TOY / "prototypes.arrow").stat().st_size
    published.cuts = {"prototypes.arrow": [size // 3]}
    done = freeda(published, tmp_path, "index", "pull", "hf://ann/toy")
    assert done.returncode == 0, done.stderr
    assert published.fetched().count("prototypes.arrow") == 2


def test_a_killed_pull_goes_on_with_the_files_that_are_missing(published: Hub, tmp_path: Path) -> None:
    published.slow = 0.002
    command = [sys.executable, "-m", "freeda.cli", "index", "pull", "hf://ann/toy"]
    process = subprocess.Popen(command, env=environment(published, tmp_path))
    deadline = time.monotonic() + 100
    while "prototypes.arrow" not in published.fetched() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.rglob("source.json"))
    published.slow = 0.0
    published.asked.clear()
    done = freeda(published, tmp_path, "index", "pull", "hf://ann/toy")
    assert done.returncode == 0, done.stderr
    assert MANIFEST not in published.fetched() and "keys.faiss" not in published.fetched()
    assert "prototypes.arrow" in published.fetched()


def test_a_person_is_asked_about_unknown_models(published: Hub, tmp_path: Path) -> None:
    """Where nobody can be asked, an index that names models of its own is refused."""
    repository = published.repositories["ann/toy"]
    _, files = repository.files("main") or ("", {})
    own = tmp_path / "own"
    own.mkdir()
    for name in (*FILES, MANIFEST):
        (own / name).write_bytes(files[name])
    _rename_clip(own)
    repository.commit("main", {MANIFEST: (own / MANIFEST).read_bytes()})
    arguments = ["segment", str(EXAMPLES / "scene-1.png"), "--classes", "cat", "--index", "hf://ann/toy"]
    refused = freeda(published, tmp_path, *arguments, "--out", tmp_path / "out")
    assert refused.returncode == 1 and "names models that no preset of this machine does" in refused.stderr
    for answer, told in (("n", "names models"), ("y", "no CLIP model could be loaded")):
        main, other = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "freeda.cli", *arguments, "--out", str(tmp_path / "out")],
            env=environment(published, tmp_path),
            stdin=other,
            stdout=subprocess.DEVNULL,
            stderr=other,
        )
        os.close(other)
        os.write(main, f"{answer}\n".encode())
        said = _everything(main)
        assert process.wait() == 1
        assert "Load these models? [y/N]" in said
        assert told in said.split("[y/N]")[1]


def _everything(terminal: int) -> str:
    said = b""
    while True:
        try:
            block = os.read(terminal, 4096)
        except OSError:  # the process has ended
            break
        if not block:
            break
        said += block
    return " ".join(said.decode().split())


def _rename_clip(folder: Path) -> None:
    from dataclasses import replace

    from freeda.index.format import read_manifest, write_manifest

    manifest = read_manifest(folder)
    models = {**manifest.preset["models"], "clip": ["eve/clip"]}
    write_manifest(folder, replace(manifest, preset={**manifest.preset, "models": models}))
