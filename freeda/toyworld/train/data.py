"""Training scenes, drawn once and kept as memory-mapped arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from freeda.files import replacing
from freeda.toyworld.captions import describe, mention
from freeda.toyworld.scenes import Scene, draw_scene, scene_rng
from freeda.toyworld.vocabulary import KINDS, Kind

__all__ = ["CAPTIONS_PER_SCENE", "IMAGE_SIZE", "Content", "SceneCache"]

IMAGE_SIZE = 128
CAPTIONS_PER_SCENE = 2
_CHUNK = 200
_KINDS = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True)
class Content:
    """What a scene shows: the kind of every stuff, and the kind and colour of every thing, in the order of
    their instance numbers.
    """

    stuff: tuple[Kind, ...]
    things: tuple[tuple[Kind, str], ...]

    @property
    def kinds(self) -> set[Kind]:
        return {*self.stuff, *(kind for kind, _ in self.things)}


@dataclass(frozen=True)
class SceneCache:
    """`count` training scenes.

    images: (N, 128, 128, 3) uint8.
    instances: (N, 128, 128) uint8, numbered as in `Scene`.
    captions, mentions: per scene, `CAPTIONS_PER_SCENE` full sentences and short prompts.
    contents: what each scene shows.
    """

    images: np.ndarray
    instances: np.ndarray
    captions: list[list[str]]
    mentions: list[list[str]]
    contents: list[Content]

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, numbers: np.ndarray, device: torch.device) -> torch.Tensor:
        """(B, 3, H, W) float32 in [-1, 1]."""
        images = torch.from_numpy(self.images[numbers]).to(device)
        return images.permute(0, 3, 1, 2).float() / 127.5 - 1

    def things(self, numbers: np.ndarray) -> np.ndarray:
        """(B, 128, 128) bool: where a thing stands, not stuff."""
        stuffs = np.array([len(self.contents[number].stuff) for number in numbers])
        return self.instances[numbers] >= stuffs[:, None, None]

    @classmethod
    def open(cls, folder: Path, count: int) -> SceneCache:
        """Opens the cache in `folder`, drawing it first where it is not there yet."""
        done = folder / f"content-{count}.json"
        shapes = {"images": (count, IMAGE_SIZE, IMAGE_SIZE, 3), "instances": (count, IMAGE_SIZE, IMAGE_SIZE)}
        if not done.exists():
            folder.mkdir(parents=True, exist_ok=True)
            _draw_all(folder, count, shapes, done)
        sentences = json.loads(done.read_text())
        arrays = {
            name: np.memmap(folder / f"{name}-{count}.raw", np.uint8, "r", shape=shape)
            for name, shape in shapes.items()
        }
        return cls(
            arrays["images"],
            arrays["instances"],
            sentences["captions"],
            sentences["mentions"],
            [_content(stuff, things) for stuff, things in sentences["contents"]],
        )


def _content(stuff: list[str], things: list[list[str]]) -> Content:
    return Content(
        tuple(_KINDS[name] for name in stuff), tuple((_KINDS[name], color) for name, color in things)
    )


def _names(scene: Scene) -> tuple[list[str], list[list[str]]]:
    """A scene's content as JSON holds it."""
    return [kind.name for kind in scene.stuff], [[item.kind.name, item.color] for item in scene.things]


def _draw_all(folder: Path, count: int, shapes: dict[str, tuple[int, ...]], done: Path) -> None:
    arrays = {
        name: np.memmap(folder / f"{name}-{count}.raw", np.uint8, "w+", shape=shape)
        for name, shape in shapes.items()
    }
    sentences: dict[str, list[Any]] = {"captions": [], "mentions": [], "contents": []}
    starts = range(0, count, _CHUNK)
    with get_context("spawn").Pool(os.cpu_count()) as pool:
        chunks: Iterator[_Chunk] = pool.imap(_draw_chunk, [(s, min(s + _CHUNK, count)) for s in starts])
        for start, (images, instances, captions, mentions, contents) in zip(starts, chunks, strict=True):
            arrays["images"][start : start + len(images)] = images
            arrays["instances"][start : start + len(images)] = instances
            sentences["captions"] += captions
            sentences["mentions"] += mentions
            sentences["contents"] += contents
    for array in arrays.values():
        array.flush()
    with replacing(done) as partial:
        partial.write_text(json.dumps(sentences))


_Chunk = tuple[np.ndarray, np.ndarray, list[list[str]], list[list[str]], list[Any]]


def _draw_chunk(bounds: tuple[int, int]) -> _Chunk:
    images, instances, captions, mentions, contents = [], [], [], [], []
    for number in range(*bounds):
        rng = scene_rng("train", number)
        scene = draw_scene(rng, IMAGE_SIZE)
        images.append(scene.image)
        instances.append(scene.instances)
        captions.append([describe(scene, rng) for _ in range(CAPTIONS_PER_SCENE)])
        mentions.append([mention(scene, rng) for _ in range(CAPTIONS_PER_SCENE)])
        contents.append(_names(scene))
    return np.stack(images), np.stack(instances), captions, mentions, contents
