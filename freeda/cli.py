"""The command line. Commands import heavy libraries when they run: `freeda --help` answers at once."""

from __future__ import annotations

import os
import traceback
import warnings
from typing import Any

import click

from freeda.commands.build import build_index_command
from freeda.commands.captions import captions_group
from freeda.commands.doctor import doctor_command
from freeda.commands.evaluate import evaluate_command
from freeda.commands.index import index_group
from freeda.commands.presets import presets_command
from freeda.commands.reproduce import reproduce_command
from freeda.commands.segment import segment_command
from freeda.commands.serve import serve_command
from freeda.commands.train import train_command
from freeda.errors import FreedaError, masked

__all__ = ["main"]


class _Commands(click.Group):
    """Shows errors as one line, with exit code 1; `--debug` adds the traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except FreedaError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            # An unforeseen error is one line too, and says how to see more.
            if ctx.params.get("debug"):
                traceback.print_exc()
            first = masked((str(error).strip() or "no message").splitlines()[0])
            click.echo(
                f"error: unexpected {type(error).__name__}: {first}; `freeda --debug ...` shows where",
                err=True,
            )
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted; run the same command again to resume", err=True)
            ctx.exit(1)


def _show_warning(message: Warning | str, *details: Any, **more: Any) -> None:
    click.echo(f"warning: {message}", err=True)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="freeda")
def main(debug: bool) -> None:
    """Open-vocabulary segmentation by retrieval: build an index once, then segment anything by name."""
    _quiet_libraries(debug)


for command in (
    build_index_command,
    segment_command,
    evaluate_command,
    train_command,
    reproduce_command,
    serve_command,
    doctor_command,
    presets_command,
    captions_group,
    index_group,
):
    main.add_command(command)


def _quiet_libraries(debug: bool) -> None:
    """The model libraries' own progress bars and hints would drown this program's output."""
    if debug:
        return
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


if __name__ == "__main__":
    main()
