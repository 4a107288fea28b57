from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from freeda.errors import CaptionsError
from freeda.records import Caption, Reject
from index_build.captions.reader import open_captions
from index_build.config import CaptionColumns, caption_seed


def config(**changes: object) -> CaptionColumns:
    return CaptionColumns(**changes)  # type: ignore[arg-type]


def write(path: Path, **columns: list) -> str:
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_rows_become_captions_with_their_ids(tmp_path: Path) -> None:
    source = write(tmp_path / "c.parquet", id=[7, 8], caption=["a  cat\n", "a dog"], other=[1, 2])
    assert list(open_captions(source, config())) == [
        Caption(id="7", text="a cat"),
        Caption(id="8", text="a dog"),
    ]


def test_bytes_that_are_no_text_cost_their_row_only(tmp_path: Path) -> None:
    texts = pa.array([b"a cat", b"a \xff dog", "une fl\u00e2neuse".encode()], pa.binary())
    lists = pa.array([[b"cat"], [b"dog"], [b"\xff", None]], pa.list_(pa.binary()))
    table = pa.table({"caption": texts, "nouns": lists, "id": pa.array([b"1", b"2", b"\xfe"], pa.binary())})
    schema = pa.schema([("caption", pa.string()), ("nouns", pa.list_(pa.string())), ("id", pa.string())])
    source = tmp_path / "c.parquet"
    pq.write_table(table.cast(schema, safe=False), source)
    assert list(open_captions(str(source), config())) == [
        Caption(id="1", text="a cat", nouns=("cat",)),
        Reject(caption_id="2", caption="a \\xff dog", noun="", reason="not UTF-8 text"),
        Caption(id="\\xfe", text="une fl\u00e2neuse", nouns=("\\xff", "")),
    ]


def test_folder_glob_and_chosen_columns(tmp_path: Path) -> None:
    write(tmp_path / "b.parquet", t=["two"], key=["y"])
    write(tmp_path / "a.parquet", t=["one"], key=["x"])
    for source in (str(tmp_path), str(tmp_path / "*.parquet")):
        rows = list(open_captions(source, config(caption_column="t", id_column="key")))
        assert rows == [Caption(id="x", text="one"), Caption(id="y", text="two")]


def test_derived_ids_depend_on_the_text_alone(tmp_path: Path) -> None:
    first = write(tmp_path / "a.parquet", caption=["a cat", "a dog", "a cat"])
    second = write(tmp_path / "b.parquet", caption=["a dog", "a cat"])
    cat, dog, again = list(open_captions(first, config()))
    assert [item.id for item in open_captions(second, config())] == [dog.id, cat.id]
    assert again.id == f"{cat.id}-2"
    assert caption_seed(0, cat.id) != caption_seed(0, again.id)
    assert caption_seed(0, cat.id) != caption_seed(1, cat.id)


def test_rows_without_text_and_repeated_ids_are_rejected(tmp_path: Path) -> None:
    source = write(tmp_path / "c.parquet", id=["a", "b", "c", "a"], caption=["x", None, "  ", "y"])
    assert list(open_captions(source, config()))[1:] == [
        Reject(caption_id="b", caption="", noun="", reason="empty caption"),
        Reject(caption_id="c", caption="", noun="", reason="empty caption"),
        Reject(caption_id="a", caption="y", noun="", reason="duplicate id"),
    ]


def test_the_nouns_column_is_used_and_limit_counts_rows(tmp_path: Path) -> None:
    source = write(tmp_path / "c.parquet", caption=["x", "y", "z"], nouns=[["p", "q"], None, []])
    rows = list(open_captions(source, config(limit=2)))
    assert [row.nouns for row in rows] == [("p", "q"), None]


def test_the_digest_sees_every_change(tmp_path: Path) -> None:
    sources = [
        write(tmp_path / "a.parquet", id=[1, 2], caption=["x", "y"]),
        write(tmp_path / "b.parquet", id=[1, 2], caption=["x", "z"]),
        write(tmp_path / "c.parquet", id=[2, 1], caption=["x", "y"]),
    ]
    digests = [open_captions(source, config()).digest() for source in sources]
    assert len(set(digests)) == 3
    assert digests[0][1] == 2


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            lambda p: write(p, title=["x"]),
            {},
            r"no caption column; its columns are title; .*--caption-column",
        ),
        (lambda p: write(p, caption=["x"]), {"caption_column": "t"}, "no column 't' for --caption-column"),
        (lambda p: write(p, caption=["x"]), {"id_column": "t"}, "no column 't' for --id-column"),
        (lambda p: write(p, caption=[1]), {}, "holds int64; expected text"),
        (lambda p: write(p, caption=["x"], nouns=["y"]), {}, "expected lists of text"),
        (lambda p: write(p, caption=pa.array([], pa.string())), {}, "has no rows"),
        (lambda p: str(p), {}, "no captions at"),
        (lambda p: p.write_bytes(b"") and None or str(p), {}, "no readable parquet"),
        (lambda p: p.write_bytes(b"PAR1 and then nonsense") and str(p), {}, "no readable parquet"),
    ],
)
def test_unusable_sources_say_why(tmp_path: Path, make, options: dict, message: str) -> None:
    source = make(tmp_path / "c.parquet")
    with pytest.raises(CaptionsError, match=message) as caught:
        open_captions(source, config(**options))
    assert "\n" not in str(caught.value)


def test_damage_inside_a_parquet_is_found_while_reading(tmp_path: Path) -> None:
    source = Path(write(tmp_path / "c.parquet", caption=[f"a cat number {n}" for n in range(3000)]))
    content = bytearray(source.read_bytes())
    content[200:4000] = bytes(3800)
    source.write_bytes(content)
    with pytest.raises(CaptionsError, match="is damaged"):
        list(open_captions(str(source), config()))


def test_files_must_agree_in_the_columns_that_are_read_only(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", caption=["x"], score=[1])
    write(tmp_path / "b.parquet", caption=["y"], score=[0.5])
    assert [row.text for row in open_captions(str(tmp_path), config())] == ["x", "y"]
    write(tmp_path / "c.parquet", caption=[3], score=[0.5])
    with pytest.raises(CaptionsError, match="holds int64 in .*c.parquet' but string"):
        open_captions(str(tmp_path), config())


def test_a_folder_s_own_index_is_no_input(tmp_path: Path) -> None:
    write(tmp_path / "c.parquet", caption=["x"])
    for folder in (tmp_path / "index", tmp_path / "other" / ".work"):
        folder.mkdir(parents=True)
        write(folder / "rejects.parquet", reason=["y"])
    for part in ("manifest.json", "keys.faiss"):
        (tmp_path / "index" / part).write_text("")
    assert [row.text for row in open_captions(str(tmp_path), config())] == ["x"]


def test_a_truncated_parquet_is_refused(tmp_path: Path) -> None:
    source = Path(write(tmp_path / "c.parquet", caption=["x"] * 1000))
    source.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(CaptionsError, match="no readable parquet"):
        open_captions(str(source), config())


def test_a_caption_of_no_sensible_length_is_refused_before_tagging(tmp_path: Path) -> None:
    path = tmp_path / "long.parquet"
    pq.write_table(pa.table({"id": ["a", "b"], "caption": ["a cat " * 10**6, "a dog"]}), path)
    rows = list(open_captions(str(path), CaptionColumns()))
    assert (rows[0].reason, rows[0].caption_id) == ("longer than 20,000 characters", "a")
    assert len(rows[0].caption) < 250
    assert rows[1].text == "a dog"


def test_two_columns_of_one_name_are_named(tmp_path: Path) -> None:
    path = tmp_path / "twice.parquet"
    pq.write_table(pa.table([["a"], ["b"]], names=["caption", "caption"]), path)
    with pytest.raises(CaptionsError, match="has 2 columns named 'caption'; rename all but one"):
        open_captions(str(path), CaptionColumns())
