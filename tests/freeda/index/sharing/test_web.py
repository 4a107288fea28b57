"""Indexes on a web server: folders and archives."""

from __future__ import annotations

import io
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from freeda.errors import RemoteError
from freeda.index.finding import find_index
from freeda.index.format import FILES, MANIFEST
from freeda.index.reader import PrototypeIndex
from freeda.index.sharing.web import _SafeRedirects, fetch
from tests.freeda.index.sharing.hub import Hub, running

TOY = find_index("toy")
CONTENT = {name: (TOY / name).read_bytes() for name in (*FILES, MANIFEST)}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("FREEDA_HOME", str(tmp_path / "home"))
    with running(Hub()) as hub:
        hub.web = {f"toy/{name}": content for name, content in CONTENT.items()}
        yield hub


def zipped(names: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(names: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in names.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def files_of(index: PrototypeIndex) -> dict[str, bytes]:
    return {name: (index.folder / name).read_bytes() for name in CONTENT}


def test_a_folder_is_fetched_once_and_again_when_it_changes(server: Hub) -> None:
    address = f"{server.url}/web/toy/"
    index = PrototypeIndex.open(address)
    assert files_of(index) == CONTENT
    assert index.source is not None and index.source.address == address
    server.asked.clear()
    assert PrototypeIndex.open(address.rstrip("/") + "/").folder == index.folder
    assert server.fetched() == [MANIFEST]
    card = b"# Another card\n"
    other = _with_card(card)
    server.web |= {f"toy/{name}": content for name, content in other.items()}
    changed = PrototypeIndex.open(address)
    assert changed.folder != index.folder and files_of(changed) == other
    assert files_of(index) == CONTENT


def _with_card(card: bytes) -> dict[str, bytes]:
    import tempfile

    from freeda.index.format import read_manifest, write_manifest

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, content in {**CONTENT, "README.md": card}.items():
            (folder / name).write_bytes(content)
        write_manifest(folder, read_manifest(folder))
        return {name: (folder / name).read_bytes() for name in CONTENT}


@pytest.mark.parametrize("prefix", ["", "toy/", "./indexes/toy/", "../../evil/"])
@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar"])
def test_archives_give_the_files_of_an_index_and_nothing_else(
    server: Hub, tmp_path: Path, prefix: str, name: str
) -> None:
    held = {f"{prefix}{part}": content for part, content in CONTENT.items()} | {f"{prefix}run.py": b"evil"}
    pack = zipped if name.endswith(".zip") else lambda names: tarred(names, "w:gz" if "gz" in name else "w")
    server.web["a/" + name] = pack(held)
    index = PrototypeIndex.open(f"{server.url}/web/a/{name}")
    assert files_of(index) == CONTENT
    assert not list(tmp_path.rglob("run.py")) and not list(tmp_path.parent.rglob("evil"))
    assert {path.name for path in index.folder.iterdir()} == {*CONTENT, "source.json"}
    server.asked.clear()
    assert PrototypeIndex.open(f"{server.url}/web/a/{name}").folder == index.folder
    assert [method for method, _, _ in server.asked] == ["HEAD"]


def test_redirects_are_followed(server: Hub) -> None:
    assert files_of(PrototypeIndex.open(f"{server.url}/leads/toy")) == CONTENT


@pytest.mark.parametrize("cuts", [[1], [200_000], [100_000, 50_000, 1]])
def test_a_connection_that_breaks_goes_on_where_it_broke(server: Hub, cuts: list[int]) -> None:
    server.cuts = {"prototypes.arrow": list(cuts)}
    assert files_of(PrototypeIndex.open(f"{server.url}/web/toy")) == CONTENT
    asked = [span for _, path, span in server.asked if path.endswith("prototypes.arrow")]
    assert len(asked) == len(cuts) + 1
    assert all(span for span in asked[1:]) or cuts == [1]


def test_an_interrupted_fetch_goes_on(server: Hub) -> None:
    """A server that breaks every connection: the fetch gives up, and the next one begins where it was."""
    server.cuts = {"prototypes.arrow": [100_000] * 4}
    with pytest.raises(RemoteError, match=r"prototypes.arrow cannot be fetched: .*"):
        PrototypeIndex.open(f"{server.url}/web/toy")
    server.asked.clear()
    assert files_of(PrototypeIndex.open(f"{server.url}/web/toy")) == CONTENT
    ranges = {path.rsplit("/", 1)[1]: span for method, path, span in server.asked}
    assert set(ranges) == {MANIFEST, "prototypes.arrow", "rejects.parquet"}
    assert int(ranges["prototypes.arrow"].removeprefix("bytes=").rstrip("-")) >= 300_000


def test_what_is_no_index_is_told(server: Hub) -> None:
    for name, content in {
        "damaged.zip": zipped({**CONTENT, "keys.faiss": b"other"}),
        "missing.zip": zipped({name: CONTENT[name] for name in CONTENT if name != "keys.faiss"}),
        "two.zip": zipped({f"{folder}/{MANIFEST}": CONTENT[MANIFEST] for folder in "ab"}),
        "cut.zip": zipped(CONTENT)[:10_000],
        "cut.tar.gz": tarred(CONTENT)[:10_000],
    }.items():
        server.web[name] = content
    server.web["wrong/manifest.json"] = b"{}"
    for name, told in {
        "damaged.zip": r"not the index that its manifest tells of \(.*keys.faiss",
        "missing.zip": r"not the index that its manifest tells of \(.*keys.faiss is missing",
        "two.zip": "holds 2 indexes; expected one",
        "cut.zip": "cannot be read",
        "cut.tar.gz": "cannot be read",
        "nothing.zip": "the server answers 404",
        "nothing": "the server answers 404",
        "wrong": "no index at .*has format None",
    }.items():
        with pytest.raises(RemoteError, match=told):
            PrototypeIndex.open(f"{server.url}/web/{name}")


def test_a_file_that_is_larger_than_its_manifest_says_is_not_fetched(server: Hub) -> None:
    server.web["toy/keys.faiss"] = CONTENT["keys.faiss"] + bytes(10_000_000)
    with pytest.raises(RemoteError, match=r"it has more than [\d,]+ bytes"):
        PrototypeIndex.open(f"{server.url}/web/toy")


def test_without_the_server_what_was_fetched_is_taken_and_told(server: Hub) -> None:
    address = f"{server.url}/web/toy"
    index = PrototypeIndex.open(address)
    server.web.clear()
    with pytest.warns(UserWarning, match="404.*taking what was fetched before"):
        assert PrototypeIndex.open(address).folder == index.folder


def test_passwords_in_addresses_are_not_shown(server: Hub) -> None:
    secret = server.url.replace("http://", "http://ann:secret@")
    with pytest.raises(RemoteError) as caught:
        PrototypeIndex.open(f"{secret}/web/nothing")
    assert "secret" not in str(caught.value)


def test_https_leads_to_https_only(tmp_path: Path) -> None:
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(RemoteError, match="leads to http://example.org/b, which is not https"):
        _SafeRedirects().redirect_request(request, None, 302, "Found", {}, "http://example.org/b")
    with pytest.raises(RemoteError, match="cannot be fetched"):
        fetch("https://127.0.0.1:9/a", tmp_path / "a", most=10)
