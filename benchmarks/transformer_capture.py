"""What capturing costs in a transformer, whose layers attend to image and text at once.

A pass of Stable Diffusion 3.5 Medium's transformer at 1024 px with random weights, of four of its 24 layers:
they are alike. Run from the checkout's root:
`python benchmarks/transformer_capture.py [--device auto] [--write]`.
"""

from __future__ import annotations

from collections.abc import Iterator

import click
import torch
from diffusers import SD3Transformer2DModel
from measuring import fastest, machine
from results import publish

from freeda.models.attention import capture_cross_attention
from freeda.models.loading import choose_device, default_dtype, prepare

_HEADER = """## Capturing in a transformer

`python benchmarks/transformer_capture.py --write`: {layers} layers of Stable Diffusion 3.5 Medium's
transformer at 1024 px, one guided caption of {nouns} nouns; least times of runs that took turns.
"""
_LAYERS = 4
_NOUNS = [(2, 79), (4, 5, 81), (7, 84)]


def table(device: torch.device, repeats: int) -> Iterator[str]:
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel(
        num_layers=_LAYERS,
        num_attention_heads=24,
        caption_projection_dim=1536,
        qk_norm="rms_norm",
        dual_attention_layers=tuple(range(_LAYERS // 2)),
        pos_embed_max_size=384,
    )
    transformer = prepare(transformer, device, default_dtype(device))
    given = {
        "hidden_states": torch.randn(2, 16, 128, 128),
        "encoder_hidden_states": torch.randn(2, 77 + 256, 4096),
        "pooled_projections": torch.randn(2, 2048),
        "timestep": torch.tensor([500.0, 500.0]),
    }
    given = {name: tensor.to(device, transformer.dtype) for name, tensor in given.items()}

    @torch.no_grad()
    def plain() -> None:
        transformer(**given)

    def captured() -> None:
        with capture_cross_attention(transformer, [_NOUNS]):
            plain()

    plain()
    times = fastest((plain, captured), device, repeats)
    yield f"{machine(device)}."
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| plain pass, s | {times[0]:.2f} |"
    yield f"| capture over plain, time | {times[1] / times[0]:.3f} |"


@click.command(context_settings={"show_default": True})
@click.option("--device", default="auto")
@click.option("--repeats", type=int, default=3)
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(device: str, repeats: int, write: bool) -> None:
    """Prints the table."""
    head = _HEADER.format(layers=_LAYERS, nouns=len(_NOUNS))
    publish("transformer-capture", [head], table(choose_device(device), repeats), write=write)


if __name__ == "__main__":
    main()
