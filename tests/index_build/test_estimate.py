from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from freeda.cli import main
from freeda.errors import NothingBuiltError
from freeda.presets.settings import Preset
from freeda.presets.toml import to_toml
from freeda.records import Caption, Reject, TaggedCaption
from index_build.captions.nouns import NounFinder
from index_build.captions.reader import open_captions
from index_build.captions.taggers import open_tagger
from index_build.config import BuildConfig
from index_build.estimate import estimate_build
from index_build.generation.prototypes import build_prototypes, load_models


def test_the_estimate_is_what_a_build_gives(tiny_preset: Preset, captions_file: Path) -> None:
    config = BuildConfig(preset=tiny_preset)
    estimate = estimate_build(str(captions_file), config, device="cpu")
    rows = list(open_captions(str(captions_file), config))
    captions = [row for row in rows if isinstance(row, Caption)]
    tagged = [TaggedCaption(row, tuple(NounFinder(open_tagger())(row.text))) for row in captions]
    models = load_models(tiny_preset, "cpu")
    outcome = build_prototypes([item for item in tagged if item.spans], models, config)
    assert (estimate.captions, estimate.rejects) == (7, sum(isinstance(row, Reject) for row in rows))
    assert estimate.images == outcome.images == 5
    by_noun = Counter((item.caption_id, item.noun) for item in outcome.prototypes)
    assert estimate.nouns == len(by_noun) == 14
    assert abs(estimate.prototypes - len(outcome.prototypes)) <= 2
    assert estimate.seconds == pytest.approx(sum(estimate.seconds_by_stage.values()), rel=0.2)


def test_the_command_writes_nothing(tiny_preset: Preset, captions_file: Path, tmp_path: Path) -> None:
    preset = tmp_path / "tiny.toml"
    preset.write_text(to_toml(replace(tiny_preset, name="tiny")))
    arguments = ["build-index", str(captions_file), "--out", str(tmp_path / "out"), "--preset", str(preset)]
    arguments += ["--device", "cpu", "--dry-run"]
    shown = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert "images      about 5" in shown.output
    assert "nothing was written" in shown.output
    data = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert data["images"] == 5
    assert not (tmp_path / "out").exists()


def test_captions_without_nouns_are_told_before_models_are_loaded(
    tiny_preset: Preset, tmp_path: Path
) -> None:
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table({"caption": ["slowly", "quickly and well"]}), path)
    unloadable = replace(tiny_preset, models={**tiny_preset.models, "diffusion": ("./nowhere",)})
    with pytest.raises(NothingBuiltError, match="none of 2 captions looked at has a noun"):
        estimate_build(str(path), BuildConfig(preset=unloadable))
