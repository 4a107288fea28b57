"""The network: where pixels go, what they may depend on, and that it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from freeda.class_names import ClassName
from freeda.methods.flowseg.centroids import place_centroids
from freeda.methods.flowseg.field import squared_distances
from freeda.methods.flowseg.method import flow
from freeda.methods.flowseg.network import FlowNetwork, as_points
from freeda.methods.flowseg.settings import NetworkSettings
from freeda.methods.flowseg.task import FlowSegTask, LossSettings
from freeda.models.backbone import load_backbone
from freeda.presets import load_preset
from freeda.segmentation.annotations import OTHER, UNMARKED, AnnotatedImage
from tests.freeda.methods.flowseg.conftest import TINY, random_network


def places(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def test_a_fresh_network_moves_nothing() -> None:
    network = FlowNetwork(NetworkSettings(**TINY), torch.zeros(3, 3))
    velocity, tokens = network(places(2, 3, 32, 48), torch.tensor([0.0, 0.5]))
    assert velocity.shape == (2, 3, 32, 48) and not velocity.any()
    assert tokens.shape == (2, 4 * 6, 48)


def test_a_patch_s_pixels_are_its_own_token_s() -> None:
    """Without attention and time, a changed pixel changes the velocities of its patch, and of no other."""
    network = random_network()
    for block in network.blocks:
        block.modulation.weight.data.zero_()
        block.modulation.bias.data.zero_()
    before = places(1, 3, 32, 32)
    after = before.clone()
    after[0, 1, 13, 22] += 1
    time = torch.zeros(1)
    changed = (network(after, time)[0] - network(before, time)[0]).abs().sum(1)[0] > 1e-6
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[8:16, 16:24] = True
    assert torch.equal(changed, expected)


def test_attention_reaches_all_patches_and_knows_their_places() -> None:
    network, time = random_network(), torch.zeros(1)
    before = places(1, 3, 32, 32)
    after = before.clone()
    after[0, :, 0, 0] += 1
    assert (network(after, time)[0] - network(before, time)[0]).abs().sum(1).min() > 0
    turned = before.unfold(2, 8, 8).unfold(3, 8, 8).transpose(2, 3)  # patches, rows and columns exchanged
    turned = turned.permute(0, 1, 2, 4, 3, 5).reshape(1, 3, 32, 32)
    first = network(turned, time)[0].unfold(2, 8, 8).unfold(3, 8, 8)
    second = network(before, time)[0].unfold(2, 8, 8).unfold(3, 8, 8).transpose(2, 3)
    assert (first - second).abs().max() > 1e-3


def test_the_time_matters() -> None:
    network = random_network()
    early, late = (network(places(1, 3, 32, 32), torch.tensor([t]))[0] for t in (0.1, 0.9))
    assert (early - late).abs().max() > 1e-3


@pytest.mark.parametrize("steps", [1, 4])
def test_the_flow_is_diffusers_euler(steps: int) -> None:
    """Its noise level falls from 1 to 0 where time rises, and its output is the velocity's negative."""
    network, images = random_network(), places(2, 3, 32, 32, seed=1)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    expected = as_points(images, 3)
    with torch.inference_mode():
        for step in scheduler.timesteps:
            time = 1 - step / 1000
            velocity, _ = network(expected, time.expand(2).float())
            expected = scheduler.step(-velocity, step, expected).prev_sample
    torch.testing.assert_close(flow(network, images, steps), expected, rtol=1e-4, atol=1e-4)


def test_images_lie_in_the_first_three_dimensions() -> None:
    found = as_points(torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1), 5)
    assert found.flatten().tolist() == [-1, 0, 1, 0, 0]


@dataclass(frozen=True)
class Given:
    images: tuple[AnnotatedImage, ...]
    classes: tuple[ClassName, ...] = (ClassName("cat"), ClassName("dog"), ClassName("grass"))
    things: frozenset[int] = frozenset({0, 1})
    identity: Mapping[str, str | int] = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.images)

    def annotated(self, number: int) -> AnnotatedImage:
        return self.images[number]


def image(seed: int = 0) -> AnnotatedImage:
    """A cat and a dog on grass; their textures tell them apart."""
    rng = np.random.default_rng(seed)
    segments = np.full((32, 32), 2, np.int32)
    segments[4:18, 3:15], segments[12:28, 17:30] = 0, 1
    pixels = rng.integers(0, 50, (32, 32, 3), dtype=np.uint8)
    pixels += np.array([[200, 60, 90], [40, 190, 30], [90, 20, 180]], np.uint8)[segments]
    return AnnotatedImage(pixels, segments, (0, 1, 2))


def task(data: Given, network: FlowNetwork | None = None) -> FlowSegTask:
    return FlowSegTask(network or random_network(), data, LossSettings(), backbone=None)


def test_pixels_without_a_class_teach_nothing() -> None:
    """Whatever moves them; what is marked counts as a mean of its pixels."""
    whole = task(Given((image(),)))
    velocity, true, ends = (places(1, 3, 32, 32, seed=n) for n in range(3))
    labels = torch.from_numpy(image().segments.astype(np.int64))[None]
    hidden = labels.clone()
    hidden[0, :16] = UNMARKED
    found = whole._flow_loss(velocity, true, ends, hidden)
    velocity[0, :, :16] += 5
    assert torch.equal(found, whole._flow_loss(velocity, true, ends, hidden))
    lower = [part[:, :, 16:] for part in (velocity, true, ends)]
    torch.testing.assert_close(found, whole._flow_loss(*lower, labels[:, 16:]))
    nothing = torch.full_like(labels, UNMARKED)
    assert whole._flow_loss(velocity, true, ends, nothing) == 0


def test_a_background_and_unmarked_pixels_have_no_label() -> None:
    segments = np.array([[0, 1], [UNMARKED, OTHER]], np.int32)
    view = AnnotatedImage(np.zeros((2, 2, 3), np.uint8), segments, (7, 4))
    assert view.label_map.tolist() == [[7, 4], [UNMARKED, UNMARKED]]


@pytest.mark.parametrize("objective", ["reshaped", "plain", "cross-entropy"])
def test_one_image_can_be_learnt_by_heart(objective: str) -> None:
    torch.manual_seed(0)
    settings = NetworkSettings(**TINY, objective=objective)  # type: ignore[arg-type]
    network = FlowNetwork(settings, torch.from_numpy(place_centroids("kronecker", 3, 3)))
    made = task(Given((image(),)), network)
    optimizer = torch.optim.AdamW(network.parameters(), 4e-3, weight_decay=0)
    rng = np.random.default_rng(0)
    for _ in range(90):
        optimizer.zero_grad()
        made.loss(np.zeros(4, np.int64), rng, 0.0).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    item = image()
    pixels = torch.from_numpy(item.image).permute(2, 0, 1)[None].float() / 255
    ends = flow(network.eval(), pixels, 1 if objective == "cross-entropy" else 4)[0].flatten(1).T
    labels = squared_distances(ends, network.centroids).argmin(1).reshape(32, 32).numpy()
    ious = [
        ((labels == n) & (item.segments == n)).sum() / ((labels == n) | (item.segments == n)).sum()
        for n in range(3)
    ]
    assert np.mean(ious) > 0.95


def test_at_first_only_classification_is_learnt() -> None:
    backbone = load_backbone(load_preset("toy").model_ids("backbone"), torch.device("cpu"))
    network = random_network(align_width=backbone.width, classifier=True)
    settings = LossSettings(class_weight=5, pretrained=0.3)
    made = FlowSegTask(network, Given((image(),)), settings, backbone=backbone)
    rng = np.random.default_rng(0)
    made.loss(np.array([0]), rng, 0.29).backward()
    learnt = {name.split(".")[0] for name, w in network.named_parameters() if w.grad is not None}
    assert learnt == {"patches", "time", "blocks", "classifier"}
    assert all(w.grad is None for w in network.blocks[1].parameters())  # after the classified one
    x_0, time = as_points(torch.rand(1, 3, 32, 32), 3), torch.zeros(1)
    torch.testing.assert_close(network.first_tokens(x_0, time), network(x_0, time)[1])
    network.zero_grad()
    made.loss(np.array([0]), rng, 0.3).backward()
    assert all(w.grad is not None for w in network.parameters())


def test_a_token_s_classes_are_those_of_its_marked_pixels() -> None:
    network = random_network(classifier=True)
    made = task(Given((image(),)), network)
    tokens, labels = places(1, 16, 48), torch.from_numpy(image().segments.astype(np.int64))[None]
    labels[0, 5:20, :9] = UNMARKED
    found = made._class_loss(tokens, labels).detach()
    assert network.classifier is not None
    scaled = tokens[0] / tokens[0].square().mean(1, keepdim=True).sqrt()
    logits = network.classifier(scaled).detach().double().numpy().reshape(4, 4, 3)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    terms = [
        -logs[row // 8, column // 8, label]
        for (_, row, column), label in np.ndenumerate(labels.numpy())
        if label >= 0
    ]
    assert float(found) == pytest.approx(np.mean(terms), rel=1e-5) and len(terms) == 32 * 32 - 15 * 9
    assert made._class_loss(tokens, torch.full_like(labels, UNMARKED)) == 0


def test_times_near_the_image_can_be_more_frequent() -> None:
    """Of u^4, half lie below 1/16."""
    seen: list[float] = []
    network = random_network()
    network.register_forward_pre_hook(lambda module, inputs: seen.extend(inputs[1].tolist()))
    for power in (1.0, 4.0):
        made = FlowSegTask(network, Given((image(),)), LossSettings(time_power=power), backbone=None)
        made.loss(np.zeros(200, np.int64), np.random.default_rng(0), 0.5)
    assert np.median(seen[:200]) == pytest.approx(0.5, abs=0.1)
    np.testing.assert_allclose(np.array(seen[200:]), np.array(seen[:200]) ** 4, atol=1e-6)


def test_alignment_is_with_the_backbone_s_features_of_the_same_places() -> None:
    backbone = load_backbone(load_preset("toy").model_ids("backbone"), torch.device("cpu"))
    network = random_network(align_width=backbone.width)
    made = FlowSegTask(network, Given((image(),)), LossSettings(), backbone=backbone)
    side, grid = network.settings.side, network.settings.side // network.settings.patch
    pictures = places(2, 3, side, side)
    known = backbone.dense_features(pictures, side).clone()
    known = torch.nn.functional.interpolate(known, (grid, grid), mode="bilinear", align_corners=False)
    tokens = known.flatten(2).transpose(1, 2)
    network.alignment = torch.nn.Identity()
    assert made._align_loss(tokens, pictures) == pytest.approx(0, abs=1e-5)
    assert made._align_loss(-tokens, pictures) == pytest.approx(2, abs=1e-5)
    assert made._align_loss(tokens.flip(1), pictures) > 0.01
    assert made._align_loss(tokens.flip(0), pictures) > 0.01


def test_every_weight_learns_and_the_backbone_does_not() -> None:
    backbone = load_backbone(load_preset("toy").model_ids("backbone"), torch.device("cpu"))
    network = random_network(align_width=backbone.width, classifier=True)
    made = FlowSegTask(network, Given((image(),)), LossSettings(class_weight=1), backbone=backbone)
    made.loss(np.array([0]), np.random.default_rng(0), 0.0).backward()
    assert [name for name, w in network.named_parameters() if w.grad is None or not w.grad.any()] == []
    assert not any(w.requires_grad and w.grad is not None for w in backbone.network.parameters())
    assert 0 < made.figures["alignment"] < 2 and 0 <= made.figures["accuracy"] <= 1
