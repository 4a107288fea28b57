"""The training recipe on a handful of scenes: it learns, stops, resumes and writes loadable models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPTokenizer

from freeda.models.backbone import load_backbone
from freeda.models.clip import load_clip
from freeda.models.diffusion import generate, load_pipeline
from freeda.presets.settings import Synthesis
from freeda.toyworld.train import autoencoder, clip, clip_images, decoder, dense, diffusion
from freeda.toyworld.train.data import SceneCache
from freeda.toyworld.train.tokenizer import train_tokenizer
from freeda.training.loop import Plan, fit

CPU = torch.device("cpu")


@dataclass
class Line:
    """y = 3x, learnt from noisy points."""

    name = "line"
    figures: ClassVar = {"slope": 0.0}

    def __post_init__(self) -> None:
        self.line = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.line.weight)
        self.norm = nn.BatchNorm1d(1)
        self.network = nn.ModuleDict({"line": self.line, "norm": self.norm})
        self.calls = 0

    def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
        self.calls += 1
        x = torch.from_numpy(rng.normal(size=(len(numbers), 1)).astype(np.float32))
        self.norm(x + 7)  # gathers a mean of 7; learns nothing
        return (self.line(x).float() - 3 * x).square().mean()


def plan(steps: int, minutes: float = 5.0) -> Plan:
    return Plan(steps=steps, minutes=minutes, batch=16, learning_rate=0.1, warmup=1, ema_decay=0.9)


def test_the_loop_learns_and_keeps_the_averaged_weights(tmp_path: Path) -> None:
    task = Line()
    fit(task, 100, plan(150), tmp_path, CPU)
    assert task.calls == 150
    assert task.line.weight.item() == pytest.approx(3, abs=0.2)
    assert task.norm.running_mean.item() == pytest.approx(7, abs=0.2)  # type: ignore[union-attr]


def test_the_loop_goes_on_from_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freeda.training.loop._CHECKPOINT_SECONDS", 0.0)
    whole = Line()
    (tmp_path / "whole").mkdir()
    fit(whole, 100, plan(60), tmp_path / "whole", CPU)

    class Killed(Line):
        def loss(self, numbers: np.ndarray, rng: np.random.Generator, progress: float) -> torch.Tensor:
            if self.calls == 25:
                raise KeyboardInterrupt
            return super().loss(numbers, rng, progress)

    (tmp_path / "cut").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fit(Killed(), 100, plan(60), tmp_path / "cut", CPU)
    rest = Line()
    fit(rest, 100, plan(60), tmp_path / "cut", CPU)
    assert rest.calls == 35
    torch.testing.assert_close(rest.line.weight, whole.line.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(rest.norm.running_mean, whole.norm.running_mean, rtol=1e-3, atol=1e-4)
    assert rest.norm.running_mean.item() == pytest.approx(7, abs=0.5)  # type: ignore[union-attr]


def test_the_time_budget_ends_training(tmp_path: Path) -> None:
    task = Line()
    fit(task, 100, plan(10**9, minutes=0.01), tmp_path, CPU)
    assert 1 <= task.calls < 10**6


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> SceneCache:
    return SceneCache.open(tmp_path_factory.mktemp("scenes"), 40)


def test_the_cache_holds_the_training_scenes(cache: SceneCache, tmp_path: Path) -> None:
    from freeda.toyworld.scenes import draw_scene, scene_rng

    scene = draw_scene(scene_rng("train", 33), 128)
    np.testing.assert_array_equal(cache.images[33], scene.image)
    np.testing.assert_array_equal(cache.instances[33], scene.instances)
    assert len(cache) == len(cache.captions) == len(cache.mentions) == 40


def test_three_models_train_and_load_through_their_own_libraries(cache: SceneCache, tmp_path: Path) -> None:
    texts = [text for texts in (*cache.captions, *cache.mentions) for text in texts]
    tokenizer = train_tokenizer(texts, tmp_path / "tokenizer")
    quick = Plan(steps=2, minutes=5, batch=4, learning_rate=1e-3)

    images = autoencoder.AutoencoderTask(cache, CPU)
    fit(images, 40, quick, tmp_path, CPU)
    latents = autoencoder.encode_scenes(images.network, cache, tmp_path / "latents.safetensors", CPU)
    again = autoencoder.encode_scenes(images.network, cache, tmp_path / "latents.safetensors", CPU)
    assert torch.equal(latents, again)
    seen = dense.DenseTask(cache, CPU)
    fit(seen, 40, quick, tmp_path, CPU)
    dense.save(seen, tmp_path / "dense")
    backbone = load_backbone([str(tmp_path / "dense")], CPU)
    assert backbone.dense_features(torch.rand(1, 3, 128, 128), 128).shape == (1, 176, 8, 8)

    features = dense.encode_scenes(backbone, cache, tmp_path)
    task = diffusion.DiffusionTask(latents, features, cache, tokenizer, CPU)
    fit(task, 40, quick, tmp_path, CPU)
    diffusion.assemble_pipeline(images.network, task, tokenizer).to(torch.float16).save_pretrained(
        tmp_path / "sd"
    )
    pipeline = load_pipeline([str(tmp_path / "sd")], CPU)
    config = Synthesis(height=128, width=128, steps=1, guidance_scale=2.0)
    assert generate(pipeline, ["a cat"], [[(2,)]], [0], config)[0].noun_maps.shape == (1, 32, 32)
    copied = autoencoder.copy_of(pipeline.vae)
    copied.save_pretrained(tmp_path / "copied")
    assert str(tmp_path) not in (tmp_path / "copied" / "config.json").read_text()
    assert all(torch.equal(copied.state_dict()[key], w) for key, w in pipeline.vae.state_dict().items())
    started = diffusion.DiffusionTask(latents, features, cache, tokenizer, CPU, start=pipeline)
    for name in ("unet", "text_encoder"):
        for key, weight in getattr(pipeline, name).state_dict().items():
            assert torch.equal(started.part(name).state_dict()[key], weight)

    before = {name: weight.clone() for name, weight in copied.state_dict().items()}
    fit(decoder.DecoderTask(copied, backbone, cache, CPU, 1.0), 40, quick, tmp_path, CPU)
    moved = {
        name.split(".")[0] for name, weight in copied.state_dict().items() if (weight != before[name]).any()
    }
    assert moved == {"decoder", "post_quant_conv"}

    pair = clip.ClipTask(cache, tokenizer, tmp_path, CPU)
    fit(pair, 40, quick, tmp_path, CPU)
    clip.save(pair.network, tokenizer, tmp_path / "clip")
    assert load_clip([str(tmp_path / "clip")], CPU).embed_texts(["a cat", "a dog"]).shape == (2, 128)


def test_a_training_begins_with_the_weights_of_a_finished_backbone(cache: SceneCache, tmp_path: Path) -> None:
    dense.save(dense.DenseTask(cache, CPU), tmp_path)
    finished = load_backbone([str(tmp_path)], CPU)
    before = {name: weight.clone() for name, weight in finished.network.state_dict().items()}
    task = dense.DenseTask(cache, CPU, finished)
    assert all(torch.equal(task.network.state_dict()[name], weight) for name, weight in before.items())
    fit(task, 40, Plan(steps=2, minutes=5, batch=4, learning_rate=1e-3, ema_decay=0.0), tmp_path, CPU)
    assert any((task.network.state_dict()[name] != weight).any() for name, weight in before.items())


def test_the_image_tower_learns_and_the_text_tower_stays(
    cache: SceneCache, tmp_path: Path, tokenizer: CLIPTokenizer
) -> None:
    clip.save(clip.ClipTask(cache, tokenizer, tmp_path, CPU).network, tokenizer, tmp_path / "first")
    task = clip_images.ImageTowerTask(cache, tmp_path / "first", CPU)
    losses = [task.loss(np.arange(40), np.random.default_rng(step), 0.0).item() for step in range(3)]
    fit(task, 40, Plan(steps=12, minutes=5, batch=40, learning_rate=1e-3, ema_decay=0.5), tmp_path, CPU)
    task.network.train()
    learnt = [task.loss(np.arange(40), np.random.default_rng(step), 0.0).item() for step in range(3)]
    assert np.mean(learnt) < np.mean(losses) - 0.05

    clip.save(task.model, clip.tokenizer_of(tmp_path / "first"), tmp_path / "second")
    first, second = (load_clip([str(tmp_path / name)], CPU) for name in ("first", "second"))
    assert torch.equal(first.embed_texts(["a cat", "a dog"]), second.embed_texts(["a cat", "a dog"]))
    image = torch.rand(1, 3, 128, 128)
    assert not torch.allclose(first.embed_images(image), second.embed_images(image))


def test_every_image_that_shows_a_kind_is_a_positive_of_its_prompt() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4, 3))
    shown = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]])
    expected = []
    for row, positives in zip(logits, shown, strict=True):
        share = np.exp(row) / np.exp(row).sum()
        if positives.any():
            expected.append(np.mean([-np.log(share[column]) for column in np.flatnonzero(positives)]))
    found = clip_images._contrast(torch.from_numpy(logits), torch.from_numpy(shown).double())
    assert found.item() == pytest.approx(np.mean(expected))


def test_dense_training_sees_no_class_names() -> None:
    """The task is given images and instance numbers only; nothing it reads names a class."""
    source = Path(dense.__file__).read_text()
    assert not any(word in source for word in ("vocabulary", "captions", "mentions", "LABELS"))


def test_nouns_keep_their_own_embedding(tokenizer) -> None:
    """The end token must be the one that text models pool at, or all nouns collapse into one."""
    model = diffusion._text_encoder(tokenizer).eval()
    pooled = [
        model(**tokenizer([text], padding="max_length", return_tensors="pt")).pooler_output
        for text in ("cat", "dog")
    ]
    assert (pooled[0] - pooled[1]).abs().max() > 1e-3
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_tokenizer_knows_every_text(tokenizer) -> None:
    for text in ("a cat", "ünïcode 猫 🙂", "x" * 30):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.eos_token_id not in ids
        assert ids
