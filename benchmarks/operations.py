"""Operations that capturing noun maps adds to a pass of Stable Diffusion 1.5's UNet.

On a GPU every operation is a kernel to launch, and whatever passes between the host and the device makes it
wait. The UNet has all layers of Stable Diffusion 1.5, narrow ones: widths change no count. Run from the
checkout's root: `python benchmarks/operations.py [--write]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click
import torch
from diffusers import UNet2DConditionModel
from results import publish
from torch.utils._python_dispatch import TorchDispatchMode

from freeda.models.attention import capture_cross_attention

_BATCH, _NOUNS = 8, [(2,), (4, 5), (7,)]
_TRANSFERS = ("_to_copy", "_local_scalar_dense", "lift_fresh", "scalar_tensor")


class Operations(TorchDispatchMode):
    """Counts operations, and those that may pass something between the host and the device."""

    def __init__(self) -> None:
        super().__init__()
        self.total, self.transfers = 0, 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.total += 1
        self.transfers += operation.overloadpacket.__name__ in _TRANSFERS
        return operation(*args, **(kwargs or {}))


def counted(run: Callable[[], object]) -> Operations:
    with Operations() as operations:
        run()
    return operations


@torch.no_grad()
def table() -> Iterator[str]:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64, 64, 64), cross_attention_dim=32, norm_num_groups=8
    ).eval()
    latents, states = torch.randn(2 * _BATCH, 4, 8, 8), torch.randn(2 * _BATCH, 77, 32)

    def step() -> None:
        unet(latents, torch.tensor(500), states)

    plain = counted(step)
    with capture_cross_attention(unet, [_NOUNS] * _BATCH):
        first, later = counted(step), counted(step)
    yield f"`python benchmarks/operations.py --write`: {_BATCH} captions of {len(_NOUNS)} nouns, guided."
    yield ""
    yield "| a pass of the UNet | operations | of plain | that may wait for the host |"
    yield "|---|---|---|---|"
    for name, found in (("plain", plain), ("captured, first step", first), ("captured, later steps", later)):
        yield f"| {name} | {found.total:,} | {found.total / plain.total:.3f} | {found.transfers} |"


@click.command(context_settings={"show_default": True})
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(write: bool) -> None:
    """Prints the table."""
    publish("operations", ["## Operations of the capture", ""], table(), write=write)


if __name__ == "__main__":
    main()
