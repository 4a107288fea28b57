"""`freeda presets`."""

from __future__ import annotations

import click

__all__ = ["presets_command"]


@click.command("presets")
@click.option("--show", metavar="NAME", help="Print a preset as TOML, to start your own from.")
def presets_command(show: str | None) -> None:
    """List the presets, those in $FREEDA_HOME/presets too, or print one as TOML."""
    from freeda.errors import ConfigError
    from freeda.presets import PRESETS, load_preset
    from freeda.presets.builtin import own_presets
    from freeda.presets.toml import to_toml

    if show:
        click.echo(to_toml(load_preset(show)))
        return
    for name in (*PRESETS, *own_presets()):
        try:
            click.echo(f"{name:16} {load_preset(name).description}")
        except ConfigError as error:
            click.echo(f"{name:16} cannot be read: {error}", err=True)
