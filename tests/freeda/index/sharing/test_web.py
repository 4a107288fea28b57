"""Indexes on a web server: folders and archives."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import Response

from freeda.errors import ConfigError, OutputError, RemoteError, UnreachableError
from freeda.index.finding import find_index
from freeda.index.format import FILES, MANIFEST
from freeda.index.reader import PrototypeIndex
from freeda.index.sharing.web import _opener, _SafeRedirects, fetch
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


def _broken(archive: bytes) -> bytes:
    """With other bytes in the middle of a compressed member."""
    place = len(archive) // 2
    return archive[:place] + bytes(100) + archive[place + 100 :]


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
        "large.zip": zipped({**CONTENT, "README.md": CONTENT["README.md"] + b"more"}),
        "page.zip": b"<html>Log in first</html>",
        "deflated.zip": _broken(zipped(CONTENT)),
        "two.zip": zipped({f"{folder}/{MANIFEST}": CONTENT[MANIFEST] for folder in "ab"}),
        "cut.zip": zipped(CONTENT)[:10_000],
        "cut.tar.gz": tarred(CONTENT)[:10_000],
    }.items():
        server.web[name] = content
    server.web["wrong/manifest.json"] = b"{}"
    for name, told in {
        "damaged.zip": r"not the index that its manifest tells of \(.*keys.faiss",
        "missing.zip": r"not the index that its manifest tells of \(.*keys.faiss is missing",
        "large.zip": "README.md in the archive .* is larger than its manifest says",
        "page.zip": "the archive at .* cannot be read",
        "deflated.zip": "the archive at .* cannot be read|not the index",
        "two.zip": "holds 2 indexes; expected one",
        "cut.zip": "cannot be read",
        "cut.tar.gz": "cannot be read",
        "nothing.zip": "the server answers 404",
        "nothing": "the server answers 404",
        "wrong": "no index that can be read at .*has format None",
    }.items():
        with pytest.raises(RemoteError, match=told):
            PrototypeIndex.open(f"{server.url}/web/{name}")


def test_a_file_that_is_larger_than_its_manifest_says_is_not_fetched(server: Hub) -> None:
    server.web["toy/keys.faiss"] = CONTENT["keys.faiss"] + bytes(10_000_000)
    with pytest.raises(RemoteError, match=r"keys.faiss has more than [\d,]+ bytes"):
        PrototypeIndex.open(f"{server.url}/web/toy")


def test_without_the_server_what_was_fetched_is_taken_and_told(server: Hub) -> None:
    address = f"{server.url}/web/toy"
    index = PrototypeIndex.open(address)
    server.refuses = {f"GET toy/{MANIFEST}": Response(status_code=503)}
    with pytest.warns(UserWarning, match="503.*taking what was fetched before"):
        assert PrototypeIndex.open(address).folder == index.folder
    server.refuses = {f"GET toy/{MANIFEST}": Response(status_code=403)}
    with pytest.raises(RemoteError, match="403"):
        PrototypeIndex.open(address)


@pytest.mark.parametrize("host", ["example.org", "example.org:443"])
def test_addresses_with_passwords_are_refused_and_not_shown(host: str) -> None:
    with pytest.raises(ConfigError, match="user name or a password is not read") as caught:
        PrototypeIndex.open(f"https://ann:secret@{host}/toy")
    assert "secret" not in str(caught.value)


def test_keys_in_a_query_are_used_and_neither_shown_nor_kept(server: Hub) -> None:
    index = PrototypeIndex.open(f"{server.url}/web/toy?key=secret")
    assert files_of(index) == CONTENT
    assert "secret" not in (index.folder / "source.json").read_text()
    with pytest.raises(RemoteError, match=r"nothing/manifest.json\?\.\.\. cannot be fetched") as caught:
        PrototypeIndex.open(f"{server.url}/web/nothing?key=secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["https://[::1/x", "https://", "ftp://a/b", "hf://a"])
def test_what_is_no_address_is_told(address: str) -> None:
    with pytest.raises(ConfigError, match=r"is no address"):
        PrototypeIndex.open(address)


def test_addresses_may_hold_any_letters(server: Hub) -> None:
    server.web |= {f"índice/{name}": content for name, content in CONTENT.items()}
    assert files_of(PrototypeIndex.open(f"{server.url}/web/índice")) == CONTENT


def test_https_leads_to_https_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on the loopback stands in for one with https: what is asked is its own scheme."""
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(RemoteError, match="leads to http://example.org/b, which is not https"):
        _SafeRedirects().redirect_request(request, None, 302, "Found", {}, "http://example.org/b")
    assert any(isinstance(handler, _SafeRedirects) for handler in _opener.handlers)
    with pytest.raises(UnreachableError, match="cannot be fetched"):
        fetch("https://127.0.0.1:9/a", tmp_path / "a", most=10)


def test_an_archive_of_which_nothing_is_told_is_looked_at_each_time(server: Hub) -> None:
    server.silent = True
    server.web["a.zip"] = zipped(CONTENT)
    first = PrototypeIndex.open(f"{server.url}/web/a.zip")
    assert files_of(first) == CONTENT
    other = _with_card(b"# Another card\n")
    server.web["a.zip"] = zipped(other)
    second = PrototypeIndex.open(f"{server.url}/web/a.zip")
    assert files_of(second) == other and files_of(first) == CONTENT
    assert {path.name for path in second.folder.iterdir()} == {*CONTENT, "source.json"}


def test_a_server_that_answers_no_questions_gives_its_files(server: Hub) -> None:
    server.web["a.zip"] = zipped(CONTENT)
    server.refuses = {"HEAD a.zip": Response(status_code=405)}
    assert files_of(PrototypeIndex.open(f"{server.url}/web/a.zip")) == CONTENT


def test_an_index_larger_than_the_disk_is_told_before_it_is_unpacked(
    server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.web["a.zip"] = zipped(CONTENT)
    archive = len(server.web["a.zip"])
    usage = type(shutil.disk_usage("."))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(archive, 0, archive))
    with pytest.raises(OutputError, match=r"the index at .* takes .* GB, and .* free; set FREEDA_HOME"):
        PrototypeIndex.open(f"{server.url}/web/a.zip")


def test_every_address_has_its_own_folder(server: Hub) -> None:
    server.web |= {f"other/{name}": content for name, content in _with_card(b"# Other\n").items()}
    one, other = (PrototypeIndex.open(f"{server.url}/web/{name}") for name in ("toy", "other"))
    assert one.folder.parent != other.folder.parent
    server.web.clear()
    server.refuses = {f"GET {name}/{MANIFEST}": Response(status_code=503) for name in ("toy", "other")}
    with pytest.warns(UserWarning, match="503.*taking what was fetched before"):
        assert PrototypeIndex.open(f"{server.url}/web/other").folder == other.folder


@pytest.mark.parametrize("size", [-1, 1.5, "many", True])
def test_sizes_that_are_none_are_damage(server: Hub, size: object) -> None:
    """A negative size would have read a member of any length at once."""
    manifest = json.loads(CONTENT[MANIFEST])
    manifest["sizes"]["keys.faiss"] = size
    manifest["digest"] = ""
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    manifest["digest"] = hashlib.sha256(text.encode()).hexdigest()
    text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    server.web["a.zip"] = zipped({**CONTENT, MANIFEST: text.encode()})
    with pytest.raises(RemoteError, match="no index that can be read"):
        PrototypeIndex.open(f"{server.url}/web/a.zip")


def test_a_folder_s_own_word_of_where_it_came_from_counts_nothing(tmp_path: Path) -> None:
    for name, content in CONTENT.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "source.json").write_text(
        '{"address": "\\u001b]0;title\\u0007", "version": "", "fetched": ""}'
    )
    assert PrototypeIndex.open(tmp_path).source is None


def test_a_cache_that_cannot_be_written_is_still_read(server: Hub) -> None:
    address = f"{server.url}/web/toy"
    index = PrototypeIndex.open(address)
    (index.folder.parent / "latest.json").write_text("")
    assert PrototypeIndex.open(address).folder == index.folder
    (index.folder.parent / "latest.json").unlink()
    (index.folder.parent / "latest.json").mkdir()
    assert PrototypeIndex.open(address).folder == index.folder
