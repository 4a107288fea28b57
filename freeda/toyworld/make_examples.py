"""Makes caption files and example images of the toy world: `python -m freeda.toyworld.make_examples`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from freeda.toyworld.captions import describe
from freeda.toyworld.scenes import Scene, draw_scene, scene_rng
from freeda.toyworld.vocabulary import KINDS

__all__ = ["balanced_captions", "class_list", "example_images"]

EXAMPLES = Path(__file__).parent / "examples"
_IMAGE_SIZES = ((128, 128), (128, 192), (192, 128), (256, 256), (160, 240), (128, 128))
_IMAGES_FROM = 100_000
"""Scene numbers of the example images: far from those of the example captions."""


def balanced_captions(count: int, start: int = 0) -> list[dict[str, str]]:
    """`count` captions of example scenes, chosen one of four so that every kind is named about as often."""
    seen: Counter[str] = Counter()
    rows = []
    for number in range(start, start + 4 * count, 4):
        candidates = [_describe(number + offset) for offset in range(4)]
        scene, row = min(candidates, key=lambda item: _familiarity(item[0], seen))
        seen.update(_names(scene))
        rows.append(row)
    return rows


def class_list() -> str:
    """Every class with its synonyms, one per line, as `--classes FILE.txt` reads it."""
    return "\n".join(",".join(kind.nouns) for kind in KINDS) + "\n"


def example_images() -> dict[str, Scene]:
    """File stem to scene, of several sizes, square and not."""
    return {
        f"scene-{i + 1}": draw_scene(scene_rng("example", _IMAGES_FROM + i), size)
        for i, size in enumerate(_IMAGE_SIZES)
    }


def _describe(number: int) -> tuple[Scene, dict[str, str]]:
    rng = scene_rng("example", number)
    scene = draw_scene(rng, 128)
    return scene, {"id": f"example-{number:06d}", "caption": describe(scene, rng)}


def _names(scene: Scene) -> set[str]:
    return {kind.name for kind in scene.kinds}


def _familiarity(scene: Scene, seen: Counter[str]) -> float:
    names = _names(scene)
    return sum(seen[name] for name in names) / len(names)


@click.command(context_settings={"show_default": True})
@click.option("--captions", type=int, default=256, help="How many captions.")
@click.option("--out", type=Path, default=EXAMPLES, help="Folder to write to.")
@click.option("--images/--no-images", default=True, help="Also draw the example images.")
def main(captions: int, out: Path, images: bool) -> None:
    """Writes captions.parquet, classes.txt and the example images."""
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(balanced_captions(captions)), out / "captions.parquet")
    (out / "classes.txt").write_text(class_list(), encoding="utf-8")
    for stem, scene in example_images().items() if images else ():
        Image.fromarray(scene.image).save(out / f"{stem}.png")


if __name__ == "__main__":
    main()
