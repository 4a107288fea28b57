"""DiGSeg as a method, and what it is taught."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

import freeda
from freeda.class_names import ClassName
from freeda.errors import ClassNamesError, ConfigError, TrainingError
from freeda.methods.digseg import DigSeg, load
from freeda.methods.digseg.method import Frozen
from freeda.methods.digseg.sampling import one_step
from freeda.methods.digseg.task import DigSegTask, QuerySettings, draw_masks
from freeda.methods.digseg.training import build
from freeda.models.diffusion import encode_latents
from freeda.presets.settings import Preset
from freeda.segmentation.annotations import OTHER, UNMARKED, AnnotatedImage
from tests.freeda.methods.contract import MethodContract, picture
from tests.freeda.methods.digseg.conftest import CPU, new_network


@pytest.fixture(scope="module")
def digseg(checkpoint: Path) -> DigSeg:
    return load(weights=checkpoint, steps=2)


class TestDigSeg(MethodContract):
    @pytest.fixture
    def segmenter(self, digseg: DigSeg) -> DigSeg:
        digseg._chosen = None
        return digseg


def test_classes_that_win_too_little_are_left_out(checkpoint: Path) -> None:
    image = picture(64, 64)
    whole = load(weights=checkpoint, decoded=0, steps=2).segment(image, "cat; dog; grass; sky")
    some = load(weights=checkpoint, decoded=2, steps=2).segment(image, "cat; dog; grass; sky")
    assert whole.paths["classes decoded"] == 4 and some.paths["classes decoded"] == 2
    assert some.paths["classes not decoded"] == 2
    maps = some.score_maps(some.classes)
    decoded = np.isfinite(maps[:, 0, 0])
    assert decoded.sum() == 2 and set(np.unique(some.labels)) <= set(np.flatnonzero(decoded))
    np.testing.assert_allclose(maps[decoded], whole.score_maps(whole.classes)[decoded], atol=1e-4)


def test_clip_can_leave_classes_out(checkpoint: Path) -> None:
    names = "cat; dog; grass; sky"
    result = load(weights=checkpoint, presence=1.0, steps=1).segment(picture(64, 64), names)
    assert result.paths["classes left out by CLIP"] == 3 and len(np.unique(result.labels)) == 1
    for value in (-0.1, 1.1):
        with pytest.raises(ConfigError, match="digseg.presence is .*; expected between 0 and 1"):
            load(weights=checkpoint, presence=value)


def test_presence_weighs_masks_by_a_power_of_clip_s_probability(checkpoint: Path) -> None:
    image, names = picture(64, 64), "cat; dog; grass"
    plain, weighted = (
        load(weights=checkpoint, presence=0.0, presence_power=power, steps=1) for power in (0.0, 0.5)
    )
    classes = plain.encode_classes(names)
    (encoded,) = plain.method.encode_images([plain.method.prepare(image)])
    probability = plain.method.clip.probabilities(encoded.embedding, classes.embeddings).cpu().numpy()
    maps, others = (
        one.segment(image, names).score_maps(["cat", "dog", "grass"]) for one in (plain, weighted)
    )
    expected = np.maximum(maps, 0) * np.sqrt(probability)[:, None, None]
    np.testing.assert_allclose(others, expected, atol=1e-5)
    assert np.ptp(probability) > 1e-3
    with pytest.raises(ConfigError, match="digseg.presence_power is -1; expected 0 or more"):
        load(weights=checkpoint, presence_power=-1)


def test_classes_pass_in_batches(checkpoint: Path) -> None:
    image, names = picture(64, 90), "cat; dog; grass"
    one, all_at_once = (load(weights=checkpoint, batch=n, steps=2).segment(image, names) for n in (1, 16))
    np.testing.assert_allclose(one.scores, all_at_once.scores, atol=1e-4)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_gives_nearly_the_same(checkpoint: Path, precision: str) -> None:
    image = picture(64, 64)
    whole, half = (
        load(weights=checkpoint, steps=2, precision=p).segment(image, "cat; dog; grass")  # type: ignore[arg-type]
        for p in ("float32", precision)
    )
    # Random weights give all classes nearly the same mask, so that scores are compared, not labels.
    np.testing.assert_allclose(half.scores, whole.scores, atol=0.1)


def test_a_thousand_classes_fit(checkpoint: Path) -> None:
    names = [f"kind {number}" for number in range(1000)]
    result = load(weights=checkpoint, batch=500, decoded=2, steps=1).segment(picture(64, 64), names)
    assert result.paths["classes not decoded"] == 998 and len(result.classes) == 1000


def test_more_steps_than_the_schedule_has_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="digseg.steps is 2000; expected 1000 at most"):
        load(weights=checkpoint, steps=2000)


def test_two_threads_do_not_mix_their_classes(checkpoint: Path) -> None:
    """The UNet's hooks are told the class in a way that other threads do not see."""
    segmenter, image = load(weights=checkpoint, steps=1), picture(64, 64)
    expected = {name: segmenter.segment(image, f"{name}; sky").score_maps([name]) for name in ("cat", "dog")}

    def largest(name: str) -> float:
        found = [segmenter.segment(image, f"{name}; sky").score_maps([name]) for _ in range(5)]
        return max(float(np.abs(one - expected[name]).max()) for one in found)

    with ThreadPoolExecutor(2) as pool:
        apart = list(pool.map(largest, ["cat", "dog"]))
    assert max(apart) < 0.1 * np.abs(expected["cat"] - expected["dog"]).max()


def test_two_threads_encode_their_classes_as_one_does(checkpoint: Path) -> None:
    """The tokenizer keeps how it pads, which differs from call to call: threads must not see each other's."""
    segmenter, names = load(weights=checkpoint), ("cat", "dog")
    expected = {name: segmenter.encode_classes(name).queries.states for name in names}

    def same(name: str) -> bool:
        found = [segmenter.encode_classes(name).queries.states for _ in range(400)]
        return all(states.shape == expected[name].shape for states in found)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            assert all(pool.map(same, names))
    finally:
        sys.setswitchinterval(interval)


def test_a_background_takes_what_no_mask_covers(checkpoint: Path) -> None:
    image = picture(64, 64)
    plain = load(weights=checkpoint, steps=2).segment(image, "cat; dog").score_maps(["cat", "dog"])
    limit = float(np.median(plain.max(0)))
    result = load(weights=checkpoint, background=True, threshold=limit, steps=2).segment(image, "cat; dog")
    np.testing.assert_array_equal(result.labels == 0, plain.max(0) <= limit)


def test_a_name_that_does_not_fit_a_prompt_is_told(digseg: DigSeg) -> None:
    with pytest.raises(ClassNamesError, match="does not fit a prompt of 40 tokens"):
        digseg.segment(picture(64, 64), "cat; " + "very " * 90 + "long")


def test_another_diffusion_model_s_weights_are_refused(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="trained on another (vae|text_encoder|schedule|clip) model"):
        load(weights=checkpoint, preset="toy")
    with pytest.raises(ConfigError, match="holds weights of digseg; use --method digseg"):
        freeda.load(method="flowseg", weights=checkpoint)


CLASSES = (ClassName("cat", ("kitten",)), ClassName("dog"), ClassName("grass"))


@dataclass(frozen=True)
class Given:
    images: tuple[AnnotatedImage, ...]
    classes: tuple[ClassName, ...] = CLASSES
    things: frozenset[int] = frozenset({0, 1})
    identity: Mapping[str, str | int] = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.images)

    def annotated(self, number: int) -> AnnotatedImage:
        return self.images[number]


def image() -> AnnotatedImage:
    """Two cats on grass."""
    segments = np.full((64, 64), 2, np.int32)
    segments[4:30, 3:28], segments[34:60, 30:62] = 0, 1
    pixels = np.random.default_rng(0).integers(0, 50, (64, 64, 3), dtype=np.uint8)
    pixels += np.array([[200, 60, 90], [200, 60, 90], [40, 190, 30]], np.uint8)[segments]
    return AnnotatedImage(pixels, segments, (0, 0, 2))


def task(frozen: Frozen, *images: AnnotatedImage, one: bool = True, **queries: object) -> DigSegTask:
    network = new_network(frozen)
    settings = QuerySettings(**queries)  # type: ignore[arg-type]
    return DigSegTask(frozen, network, Given(images), settings, one_step=one, templates=["a {}"])


def test_segments_of_a_class_are_one_mask_and_small_ones_none() -> None:
    masks = draw_masks(image())
    assert set(masks) == {0, 2} and masks[0].sum() == 26 * 25 + 26 * 32 and (masks[0] ^ masks[2]).all()
    segments = image().segments.copy()
    segments[:, :] = OTHER
    segments[0, :3], segments[1:40, 1:40], segments[50:] = 0, 1, UNMARKED
    assert set(draw_masks(AnnotatedImage(image().image, segments, (1, 2)))) == {2}


def test_queries_name_what_the_image_shows_and_now_and_then_what_it_does_not(frozen: Frozen) -> None:
    made, rng = task(frozen, image(), absent=0.25), np.random.default_rng(0)
    queries = [made._query(image(), rng) for _ in range(400)]
    absent = [query for query in queries if (query.mask < 0).all()]
    assert 0.18 < len(absent) / 400 < 0.32
    assert {query.name for query in absent} == {2}  # names: cat, kitten, dog, grass
    masks = draw_masks(image())
    for query in queries:
        if query.name != 2:
            np.testing.assert_array_equal(query.mask > 0, masks[2 if query.name == 3 else 0])
    assert {query.name for query in queries} == {0, 1, 2, 3}


def test_an_image_of_nothing_teaches_absence_only(frozen: Frozen) -> None:
    nothing = replace(image(), segments=np.full((64, 64), OTHER, np.int32), labels=())
    made, rng = task(frozen, nothing), np.random.default_rng(0)
    assert all((made._query(nothing, rng).mask < 0).all() for _ in range(20))


@pytest.mark.parametrize("seed", [1, 3])
def test_unmarked_cells_teach_nothing(frozen: Frozen, seed: int) -> None:
    """Whatever is painted there. A cell of latents counts where all of its 8 x 8 pixels are marked."""
    hidden = image().segments.copy()
    hidden[:, 40:] = UNMARKED
    made = task(frozen, replace(image(), segments=hidden), absent=0.0, queries=1)
    mirrored = np.random.default_rng(seed).random() < 0.5
    unmarked = slice(0, 3) if mirrored else slice(5, 8)
    marked = slice(3, 8) if mirrored else slice(0, 5)

    def loss(disturbed: slice) -> float:
        def given(images: object, goals: torch.Tensor, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
            found = goals.clone()
            found[..., disturbed] += 7.0
            return found, goals

        made._prediction = given  # type: ignore[method-assign, assignment]
        return float(made.loss(np.array([0]), np.random.default_rng(seed), 0.0))

    assert loss(unmarked) == 0
    assert loss(marked) == pytest.approx(49, rel=1e-4)
    assert {np.random.default_rng(s).random() < 0.5 for s in (1, 3)} == {True, False}


def test_data_without_any_mask_is_told(digseg_preset: Preset) -> None:
    nothing = replace(image(), segments=np.full((64, 64), UNMARKED, np.int32), labels=())
    with pytest.raises(TrainingError, match="none of 1 images shows a class that is learnt"):
        build(digseg_preset, Given((nothing,)), recipe="one-step", device=CPU, options={})


def test_one_image_can_be_learnt_by_heart(frozen: Frozen) -> None:
    """The masks painted for a cat and for grass come nearest to their own. (Random encoders give all names
    nearly the same embedding, which would take long to tell apart: here they are unlike.)
    """
    made = task(frozen, image(), absent=0.0, queries=4)
    network = made.network
    unlike = torch.linalg.qr(torch.randn(frozen.text_width, 4, generator=torch.Generator().manual_seed(0)))
    made._texts = replace(made._texts, embeddings=unlike.Q.T.contiguous())
    with torch.no_grad():
        network.text_path.gates.fill_(1.0)  # type: ignore[union-attr] - they would take long to open
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    rng, losses = np.random.default_rng(0), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = made.loss(np.zeros(1, np.int64), rng, 0.0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
    masks = draw_masks(image())
    signed = torch.from_numpy(np.where(np.stack([masks[0], masks[2]]), 1, -1)).float()
    goals = network.masks.encode(frozen.pipeline, signed)
    pixels = torch.from_numpy(image().image).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        latents = encode_latents(frozen.pipeline, pixels).expand(2, -1, -1, -1)
        texts = made._texts[[0, 3]]
        found = one_step(network, latents, texts.states, texts.embeddings, 999)
    apart = (found[:, None] - goals[None]).square().mean((2, 3, 4))
    assert apart.argmin(1).tolist() == [0, 1]


@pytest.mark.parametrize("recipe", ["one-step", "diffusion"])
def test_every_recipe_has_a_loss_that_says_how_it_goes(digseg_preset: Preset, recipe: str) -> None:
    made = build(digseg_preset, Given((image(),)), recipe=recipe, device=CPU, options={})
    torch.manual_seed(0)
    loss = made.task.loss(np.array([0, 0]), np.random.default_rng(0), 0.0)
    torch.manual_seed(5)
    again = made.task.loss(np.array([0, 0]), np.random.default_rng(0), 0.5)
    assert torch.isfinite(loss) and torch.equal(loss, again)
    assert np.isnan(made.task.figures["iou_of_present"]) == (recipe == "diffusion")
    assert set(made.frozen) == {"vae", "text_encoder", "schedule", "clip"}


def test_the_velocity_to_be_learnt_leads_to_the_mask(digseg_preset: Preset) -> None:
    """x0 = sqrt(a) x - sqrt(1 - a) v, of the noisy latents that the network is given."""
    task = build(digseg_preset, Given((image(),)), recipe="diffusion", device=CPU, options={}).task
    given: list[torch.Tensor] = []

    def network(images: object, noisy: torch.Tensor, steps: torch.Tensor, *rest: object) -> torch.Tensor:
        given.extend((noisy, steps))
        return torch.zeros_like(noisy)

    task.network = network
    goals = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    texts = task._texts[[0] * 6]
    _, velocity = task._prediction(torch.zeros_like(goals), goals, texts, np.random.default_rng(0))
    noisy, steps = given
    kept = task._frozen.schedule.alphas_cumprod[steps][:, None, None, None]
    assert steps.float().std() > 50 and (noisy - goals).abs().max() > 0.1
    torch.testing.assert_close(
        kept.sqrt() * noisy - (1 - kept).sqrt() * velocity, goals, atol=1e-4, rtol=1e-4
    )


def test_a_unet_can_begin_with_random_weights(digseg_preset: Preset, frozen: Frozen) -> None:
    fresh, known = (
        build(
            digseg_preset,
            Given((image(),)),
            recipe="one-step",
            device=CPU,
            options={"pretrained": given, "seed": 5},
        )
        for given in (False, True)
    )
    name = "unet.mid_block.resnets.0.conv1.weight"
    held = frozen.pipeline.unet.mid_block.resnets[0].conv1.weight
    assert torch.equal(known.task.network.state_dict()[name], held)
    assert not torch.equal(fresh.task.network.state_dict()[name], held)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"queries": 0}, "queries is 0; expected a whole number above 0"),
        ({"absent": 1.5}, "absent is 1.5; expected between 0 and 1"),
        ({"pretrained": 1}, "pretrained is 1; expected true or false"),
        ({"prompt": "photo"}, "digseg.prompt is 'photo'; expected a text with one {} for the class name"),
        ({"side": 100}, "digseg.side is 100; expected a multiple of 64"),
    ],
)
def test_bad_settings_are_refused(digseg_preset: Preset, option: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build(digseg_preset, Given((image(),)), recipe="one-step", device=CPU, options=option)
