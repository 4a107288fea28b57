"""`freeda index add-images`: your own images as prototypes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from freeda.commands.edited import edited_text
from freeda.commands.options import DEVICE, OUT, OVERWRITE, TRUST
from freeda.commands.progress_bar import ProgressBar
from freeda.errors import printable

if TYPE_CHECKING:
    from freeda.records import Reject
    from freeda.segmentation.marked_images import MarkedImage

__all__ = ["add_images_command"]

_PATH = click.Path(path_type=Path)


@click.command("add-images")
@click.argument("name")
@click.argument("images", type=_PATH)
@OUT
@click.option("--masks", type=_PATH, help="Folder of a PNG of class numbers per image; 255 is no class.")
@click.option(
    "--classes", help='Classes of --masks, in the order of their numbers from 0: "cat; dog", or a .txt file.'
)
@click.option("--coco", type=_PATH, help="COCO file of polygons, masks or boxes.")
@click.option("--label-studio", type=_PATH, help="JSON export of Label Studio.")
@click.option("--alone", is_flag=True, help="Leave out the prototypes of NAME: your images only.")
@OVERWRITE
@DEVICE
@TRUST
def add_images_command(
    name: str, images: Path, out: Path, alone: bool, trust_models: bool | None, **options: Any
) -> None:
    """Add your own IMAGES, in which things are marked and named, to the prototypes of the index NAME.

    Classes with these names then use your images for most of their prototype (setting own_weight, 0.8). All
    pixels of a box count as the object, so masks are better. Run the same command again to resume.
    """
    from freeda.methods.freeda import add_images

    marked = _marked(images, *(options.pop(key) for key in ("masks", "classes", "coco", "label_studio")))
    with ProgressBar(" images") as bar:
        added = add_images(
            name,
            marked,
            out,
            alone=alone,
            trust_models=bool(trust_models),
            on_image=bar.count,
            **options,
        )
    for reason, count in Counter(item.reason for item in added.rejects).most_common():
        click.echo(f"left out: {count} x {printable(reason)}", err=True)
    note = f"{added.prototypes:,} from {added.images:,} of your images"
    click.echo(edited_text(str(out), added.manifest, note))


def _marked(
    images: Path, masks: Path | None, classes: str | None, coco: Path | None, label_studio: Path | None
) -> Iterator[MarkedImage | Reject]:
    from freeda.class_names import parse_classes
    from freeda.segmentation.marked_images import from_coco, from_label_studio, from_masks

    if sum(item is not None for item in (masks, coco, label_studio)) != 1:
        raise click.UsageError("say what is marked with one of --masks, --coco and --label-studio")
    if (masks is None) != (classes is None):
        raise click.UsageError("--masks and --classes belong together")
    if masks is not None and classes is not None:
        return from_masks(images, masks, parse_classes(classes))
    if coco is not None:
        return from_coco(coco, images)
    assert label_studio is not None
    return from_label_studio(label_studio, images)
