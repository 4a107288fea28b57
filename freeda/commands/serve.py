"""`freeda serve`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import click

from freeda.commands.options import DEVICE, TRUST
from freeda.errors import ConfigError

__all__ = ["serve_command"]


@click.command("serve", context_settings={"show_default": True})
@click.option(
    "--host", default="127.0.0.1", help="Address to listen on; any but the loopback asks for a token."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, help="Port; 0 takes a free one.")
@click.option(
    "--index",
    "indexes",
    multiple=True,
    help="Index name or folder; may be repeated.  [default: all that are found]",
)
@click.option(
    "--preset", help="Take models and settings from this preset.  [default: the index's own, or toy]"
)
@TRUST
@DEVICE
def serve_command(host: str, port: int, indexes: tuple[str, ...], **options: Any) -> None:
    """Open a page in the browser: segment images, see why, look into indexes."""
    for package in ("starlette", "uvicorn"):
        if find_spec(package) is None:
            raise ConfigError(f"`freeda serve` needs the package {package}: pip install 'freeda[web]'")
    from freeda.presets import load_preset
    from freeda.web.address import listen

    if options["preset"]:
        load_preset(options["preset"])
    places = _places(indexes)
    listening = listen(host, port)
    from freeda.models.loading import choose_device
    from freeda.web.limits import Limits
    from freeda.web.server import serve
    from freeda.web.studio import Studio

    choose_device(options["device"])
    studio = Studio(
        places,
        Limits(),
        preset=options["preset"],
        device=options["device"],
        trust_models=bool(options["trust_models"]),
    )
    click.echo(f"open {listening.url}")
    click.echo("stop with Ctrl-C")
    serve(studio, listening)


def _places(indexes: tuple[str, ...]) -> dict[str, str]:
    """Where indexes lie, by the names that the page shows."""
    from freeda.index.finding import find_index, listed_indexes

    if not indexes:
        return listed_indexes()
    places: dict[str, str] = {}
    for given in indexes:
        folder = find_index(given)
        if folder.resolve().name in places:
            raise ConfigError(f"two indexes are named '{folder.resolve().name}'; rename one of the folders")
        places[folder.resolve().name] = str(folder)
    return places
