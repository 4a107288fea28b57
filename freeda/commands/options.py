"""Options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from freeda.commands.paths import out_folder
from freeda.methods import METHODS
from freeda.presets.settings import PRECISIONS

__all__ = [
    "DEVICE",
    "FACTORY",
    "INDEX_DEVICE",
    "METHOD_OPTIONS",
    "OUT",
    "OVERWRITE",
    "SCHEDULER",
    "TAGGER",
    "TRUST",
    "WORKERS",
    "asking_for_trust",
    "column_options",
    "limit_threads",
    "method_options",
    "read_lines",
    "taken_method_options",
]

_Loaded = TypeVar("_Loaded")

OUT = click.option("--out", callback=out_folder, required=True, help="Folder of the index.")
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace another index in --out.")
DEVICE = click.option("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps, ...")
WORKERS = click.option(
    "--workers", type=click.IntRange(1), help="Worker processes on this machine.  [default: one per GPU]"
)
SCHEDULER = click.option(
    "--scheduler", help="Use a running Dask cluster: tcp://HOST:PORT or a scheduler file."
)
TAGGER = click.option(
    "--tagger",
    default="pattern",
    help="What finds nouns: pattern, gruut, or spacy:MODEL with an installed spaCy model.",
)
FACTORY = click.option(
    "--factory",
    help="FAISS factory of the keys, such as IVF4096_HNSW32,SQ8.  [default: chosen by their number]",
)
INDEX_DEVICE = click.option(
    "--index-device",
    default="auto",
    help="Where keys are indexed: cpu, cuda, or auto for a GPU where there is one.",
)
_COLUMNS = {
    "caption_column": "Column with the captions.",
    "id_column": "Column with their ids.  [default: id, or derived from the text]",
    "nouns_column": "Column with lists of nouns; these captions are not tagged.",
}
_OPTION_NAMES = (
    *("method", "index", "weights", "preset", "recipe", "trust_models"),
    *(
        "background_concepts",
        "stuff",
        "threshold",
        "device",
        "index_device",
        "precision",
        "batch",
        "threads",
        "native",
    ),
)
TRUST = click.option(
    "--trust-models",
    is_flag=True,
    default=None,
    help="Load the models that the index names, even if no preset on this machine names them.",
)
METHOD_OPTIONS = (
    click.option("--method", default="freeda", help=f"One of {', '.join(METHODS)}."),
    click.option(
        "--index",
        help="For methods that retrieve: an index's name, ./FOLDER, hf://USER/NAME or https://...  "
        "[default: toy]",
    ),
    click.option(
        "--weights",
        metavar="FOLDER",
        help="For methods that are trained: what `freeda train` wrote.  [default: the preset's]",
    ),
    click.option(
        "--preset", help="Take models and settings from this preset.  [default: the index's own, or toy]"
    ),
    TRUST,
    click.option("--recipe", help="default, or paper for the algorithm of FreeDA's released code."),
    click.option(
        "--background-concepts",
        metavar="LIST",
        help='For methods that retrieve: names that compete with the classes as background: "sky; wall"; a '
        ".txt file; usual (sky, wall, road and the like); none; or index (the index's other nouns). Turns "
        "on --background of `segment`.  [default: the preset's]",
    ),
    click.option(
        "--stuff",
        metavar="LIST",
        help='For odise: classes without instances (stuff), such as "sky; grass".  [default: the stuff '
        "classes of the training, or in `evaluate` those of the data set]",
    ),
    click.option(
        "--threshold",
        type=float,
        help="Score that a class must exceed against the background; `segment` then needs no --background.  "
        "[default: the method's]",
    ),
    click.option(
        "--set",
        "assignments",
        metavar="KEY=VALUE",
        multiple=True,
        help="Change a setting of the method, such as pamr=0 or superpixels.scale=50; may be repeated.",
    ),
    DEVICE,
    click.option(
        "--index-device",
        help="Where keys are searched: cpu, cuda, or auto for a GPU where the models are on one.  "
        "[default: auto]",
    ),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        help="Precision of the models.  [default: float16 on an NVIDIA GPU, else float32; of a diffusion "
        "model, the preset's]",
    ),
    click.option(
        "--batch",
        type=click.IntRange(1),
        help="How many windows go through the models at once; for DiffSegmenter, prompts.  "
        "[default: 8 windows, 4 prompts]",
    ),
    click.option(
        "--native",
        is_flag=True,
        default=None,
        help="Segment images at their own resolution, tile by tile, instead of resized.",
    ),
    click.option("--threads", type=click.IntRange(1), help="CPU threads.  [default: one per core]"),
)
"""How a method is chosen and set up."""


def column_options(command: Callable) -> Callable:
    """Adds the options that name a parquet's columns."""
    for name, text in reversed(_COLUMNS.items()):
        command = click.option(f"--{name.replace('_', '-')}", help=text)(command)
    return command


def method_options(command: Callable) -> Callable:
    """Adds `METHOD_OPTIONS`."""
    for option in reversed(METHOD_OPTIONS):
        command = option(command)
    return command


def taken_method_options(options: dict[str, Any]) -> dict[str, Any]:
    """Takes the values of `METHOD_OPTIONS` out of a command's options, as `freeda.load` wants them."""
    from freeda.presets.toml import parse_setting

    taken = {name: options.pop(name) for name in _OPTION_NAMES}
    _check_names(taken)
    settings = dict(map(parse_setting, options.pop("assignments")))
    if mixed := sorted(settings.keys() & {*_OPTION_NAMES, "background"}):
        advice = f"use --{mixed[0].replace('_', '-')}"
        if mixed[0] == "background":
            advice += ", and --threshold SCORE for a score that classes must exceed"
        raise click.BadParameter(f"{mixed[0]} is an option of its own; {advice}", param_hint="--set")
    if taken["threads"]:
        limit_threads(taken["threads"])
    return {**taken, **settings}


def limit_threads(count: int) -> None:
    """Of every library that starts threads of its own."""
    import cv2
    import faiss
    import torch

    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    faiss.omp_set_num_threads(count)


def _check_names(taken: dict[str, Any]) -> None:
    """Tells an unknown name before the model libraries are imported, which takes seconds."""
    from freeda.index.finding import find_index
    from freeda.index.sharing.addresses import is_address
    from freeda.presets import load_preset
    from freeda.presets.recipes import check_recipe

    if taken["index"] is not None:
        folder = find_index(taken["index"])
        if is_address(taken["index"]):
            taken["index"] = str(folder)  # resolved once: its revision may move meanwhile
    for name, check in {"preset": load_preset, "recipe": check_recipe}.items():
        if taken[name] is not None:
            check(taken[name])


def asking_for_trust(load: Callable[[bool | None], _Loaded], trust: bool | None) -> _Loaded:
    """What `load` gives, which is told whether to trust an index's models; a person at a terminal is asked
    about unknown ones.
    """
    from freeda.errors import UntrustedIndexError

    try:
        return load(trust)
    except UntrustedIndexError as error:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        click.echo(f"{error}", err=True)
        if not click.confirm("Load these models?", err=True):
            raise
        return load(True)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"'{path}' cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
