from __future__ import annotations

from pathlib import Path

import pytest

from freeda.errors import ConfigError
from freeda.presets.toml import preset_from_dict, to_toml
from freeda.presets import PRESETS, load_preset


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
            "background_concepts is 'sky'; expected a list of names",
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
