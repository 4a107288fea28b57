from __future__ import annotations

from pathlib import Path

import pytest

from freeda.errors import ConfigError
from freeda.presets import PRESETS, load_preset
from freeda.presets.toml import changed, parse_setting, preset_from_dict, to_toml


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_toml_and_plain_data(name: str, tmp_path: Path) -> None:
    preset = load_preset(name)
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(preset))
    assert load_preset(str(path)) == preset
    assert preset_from_dict(preset.as_dict(), "test") == preset


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps = 12", "steps = 0"), "synthesis.steps is 0; expected a whole number above 0"),
        (("steps = 12", "stepz = 20"), "Synthesis has no stepz; known are .*steps"),
        (("steps = 12", ""), "missing .*'steps'"),
        (("threshold = 0.5", "threshold = 1.4"), "localization.threshold is 1.4"),
        (('key = "template"', 'key = "magic"'), "localization.key is 'magic'"),
        (("stride = 64", "stride = 500"), "segmentation.stride is 500; expected at most the window, 128"),
        (
            ("background_concepts = ", 'background_concepts = "sky" # '),
            "background_concepts is 'sky'; expected a list of names, or \"index\"",
        ),
        (("[segmentation.superpixels]", "[other]"), "Preset has no other"),
        (("[synthesis]", "[synthesis"), "not valid TOML"),
        (("[models]", "[model]"), r"no table \[models\]"),
    ],
)
def test_bad_preset_files_say_what_is_wrong(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = to_toml(load_preset("toy"))
    assert change[0] in text
    path.write_text(text.replace(*change))
    with pytest.raises(ConfigError, match=message):
        load_preset(str(path))


def test_unknown_presets_name_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="unknown preset 'sd3'; expected one of toy, sd15-vitb"):
        load_preset("sd3")
    with pytest.raises(ConfigError, match="no preset file 'nowhere.toml'"):
        load_preset("nowhere.toml")


def test_settings_of_other_methods_survive_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(load_preset("sd15-vitb")) + "\n[methods.diffsegmenter]\ntimestep = 200\n")
    preset = load_preset(str(path))
    assert preset.methods == {"diffsegmenter": {"timestep": 200}}
    assert preset_from_dict(preset.as_dict(), "test") == preset
    assert "methods" not in load_preset("sd15-vitb").as_dict()
    path.write_text(to_toml(load_preset("toy")))
    assert load_preset(str(path)).methods == load_preset("toy").methods != {}


def test_a_role_without_a_model_is_named() -> None:
    with pytest.raises(ConfigError, match="preset 'toy' has no vae model, only diffusion, clip, backbone"):
        load_preset("toy").model_ids("vae")


def test_single_settings_are_changed_by_name() -> None:
    settings = load_preset("toy").segmentation
    found = changed(settings, {"pamr": 0, "superpixels.scale": 50, "templates": ["a {}"]}, "method freeda")
    assert (found.pamr, found.superpixels.scale, found.templates) == (0, 50, ("a {}",))
    assert found.superpixels.sigma == settings.superpixels.sigma
    assert changed(settings, {"threshold": 0.2}, "m", {"threshold": "background"}).background == 0.2
    for name in ("scale", "superpixels", "superpixels.size", "pamr.x"):
        with pytest.raises(
            ConfigError,
            match=f"has no option or setting .{name.rpartition('.')[2]}|{name}'; its settings are",
        ):
            changed(settings, {name: 1}, "method freeda")
    with pytest.raises(ConfigError, match="segmentation.pamr is -1; expected 0 .. 100"):
        changed(settings, {"pamr": -1}, "method freeda")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pamr=0", ("pamr", 0)),
        ("local_weight = 0.5", ("local_weight", 0.5)),
        ("pooling=area", ("pooling", "area")),
        ('templates=["a {}", "b {}"]', ("templates", ["a {}", "b {}"])),
        ("background_concepts=sky; wall", ("background_concepts", "sky; wall")),
    ],
)
def test_assignments_are_read_as_toml_or_text(text: str, expected: tuple[str, object]) -> None:
    assert parse_setting(text) == expected


def test_what_is_no_assignment_is_refused() -> None:
    with pytest.raises(ConfigError, match="'pamr' is not KEY=VALUE"):
        parse_setting("pamr")
