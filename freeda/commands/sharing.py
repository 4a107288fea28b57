"""`freeda index pull` and `push`."""

from __future__ import annotations

from pathlib import Path

import click

from freeda.commands.options import OVERWRITE
from freeda.commands.paths import optional_out_folder

__all__ = ["pull_command", "push_command"]


@click.command("pull")
@click.argument("address")
@click.option("--out", callback=optional_out_folder, help="Copy the index into this folder.")
@OVERWRITE
def pull_command(address: str, out: Path | None, overwrite: bool) -> None:
    """Fetch the index at ADDRESS, and check every byte of it.

    ADDRESS is hf://USER/NAME, hf://USER/NAME@REVISION, or https:// and a folder or archive. Commands that
    take an index take an address too, and fetch it when they need it.
    """
    from freeda.index.placing import copy_index
    from freeda.index.reader import PrototypeIndex
    from freeda.index.sharing.fetch import fetch_index

    folder = fetch_index(address, verify=True)
    index = PrototypeIndex.open(folder)
    if out is not None:
        copy_index(folder, out, overwrite=overwrite)
    click.echo(f"fetched from {index.source}")
    click.echo(f"{out or folder}: {len(index):,} prototypes of {index.manifest.nouns:,} nouns")


@click.command("push")
@click.argument("name")
@click.argument("repository")
@click.option(
    "--captions-from", default="", help="Where the captions came from, and their licence, for the card."
)
@click.option("--license", default="", help="The hub's name of the index's licence.  [default: other]")
@click.option(
    "--private", is_flag=True, help="Create a private repository; refuses one that is public already."
)
@click.option("--revision", default="main", show_default=True, help="Branch; it is made where there is none.")
def push_command(name: str, repository: str, **options: str | bool) -> None:
    """Publish the index NAME as the data set REPOSITORY (USER/NAME) on the Hugging Face hub.

    The captions and thumbnails of its prototypes and the captions of its rejects are published with it. Log
    in first with `hf auth login`.
    """
    from freeda.index.sharing.publish import publish_index

    done = publish_index(name, repository, **options)  # type: ignore[arg-type]
    click.echo(done.url)
    click.echo(f"use it with --index hf://{repository}@{done.commit}")
