"""The trained methods at the size of the real models: parameters and memory, without weights.

Run from the checkout's root: `python benchmarks/trained_size.py [--device cuda] [--write]`. With `--device`,
DiGSeg and FlowSeg also take training steps of random weights there (on a CPU, 19 GB of memory).
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from measuring import fastest, machine
from results import publish
from scenes import CPU
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from freeda.methods.digseg.sampling import one_step
from freeda.methods.digseg.settings import NetworkSettings as DigSegNetworkSettings
from freeda.methods.digseg.unet import SegmentingUNet
from freeda.methods.flowseg.network import FlowNetwork
from freeda.methods.flowseg.settings import NetworkSettings as FlowSegNetworkSettings
from freeda.methods.odise.captioner import ImplicitCaptioner
from freeda.methods.odise.crops import CropGrid
from freeda.methods.odise.head import Head
from freeda.methods.odise.settings import NetworkSettings
from freeda.methods.odise.taps import TappedPipeline

Network = tuple[nn.Module, Callable[[int], torch.Tensor]]
"""Of random weights, and what runs it on a number of classes or images."""
_HEADER = """## Trained methods at full size

`python benchmarks/trained_size.py{device} --write`. Networks pass by shapes only, in half
precision; ODISE's head, which decides by values, on random features. Peaks are of activations and gradients,
beyond the weights.
"""


class TensorMemory(TorchDispatchMode):
    """Bytes of the tensors alive, by their storages."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._held: dict[int, list[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return out

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._held:
            self._held[key][0] += 1
        else:
            self._held[key] = [1, storage.nbytes()]
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
        weakref.finalize(tensor, self._gone, key)

    def _gone(self, key: int) -> None:
        held = self._held[key]
        held[0] -= 1
        if not held[0]:
            self.now -= held[1]
            del self._held[key]


class StableDiffusion15:
    """The shapes of Stable Diffusion 1.5, in half precision."""

    def __init__(self) -> None:
        with _default(torch.float16):
            self.unet = UNet2DConditionModel(
                sample_size=64,
                block_out_channels=(320, 640, 1280, 1280),
                layers_per_block=2,
                cross_attention_dim=768,
                attention_head_dim=8,
                down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
                up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            )
            self.vae = AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                latent_channels=4,
            )
        self.text_encoder = nn.Identity()
        self.scheduler = DDPMScheduler(beta_schedule="scaled_linear")


def odise() -> Iterator[str]:
    settings = NetworkSettings()
    grid = CropGrid.of((1024, 1024), side=1024, window=512, multiple=64)
    with FakeTensorMode(allow_non_fake_inputs=True):
        pipeline = StableDiffusion15()
        tapped = TappedPipeline(pipeline, settings.taps, timestep=0, noise_seed=42)
        crops = grid.cut(torch.rand(1, 3, *grid.size))
        with torch.no_grad(), TensorMemory() as memory:
            taps = tapped.features(crops, torch.rand(len(crops), 77, 768))
        text, time = (torch.rand(len(crops), *size, requires_grad=True) for size in ((77, 768), (1280,)))
        with TensorMemory() as training:
            torch.stack([tap.float().sum() for tap in tapped.features(crops, text, time)]).sum().backward()
        shapes = [grid.join(tap).shape for tap in taps]
        frozen = sum(w.numel() for part in (pipeline.unet, pipeline.vae) for w in part.parameters())
    head, captioner = Head(tapped.channels, 768, settings), ImplicitCaptioner(768, (77, 768), 1280)
    parts = (head, captioner)
    trained = sum(weight.numel() for part in parts for weight in part.parameters())
    features = [torch.randn(shape) for shape in shapes]
    with torch.no_grad(), TensorMemory() as own:
        head(features, grid.size)
    yield "ODISE on Stable Diffusion 1.5, one image of 1,024 x 1,024 px in four crops:"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| trained parameters (the paper: 28.1 M) | {trained / 1e6:.2f} M |"
    yield f"| frozen parameters of the diffusion model's UNet and autoencoder | {frozen / 1e6:.1f} M |"
    yield f"| channels of the taps | {', '.join(map(str, tapped.channels))} |"
    yield f"| peak of activations while the taps are read, float16 | {memory.peak / 2**30:.1f} GiB |"
    yield f"| the same in training, with the captioner's gradients | {training.peak / 2**30:.1f} GiB |"
    yield f"| peak of the head's activations beyond the taps, float32 | {own.peak / 2**30:.1f} GiB |"


def digseg() -> Iterator[str]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        network, masks = _digseg(torch.float16)
        inference, training = _peaks(network, masks, 16)
    trained = sum(weight.numel() for weight in network.parameters())
    side = DigSegNetworkSettings().side
    yield f"DiGSeg on Stable Diffusion 2.1, {side} x {side} px:"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| trained parameters | {trained / 1e6:.1f} M |"
    yield f"| peak, inference, 16 classes at once | {inference:.1f} GiB |"
    yield f"| peak, a training step of one class | {training:.1f} GiB |"


def flowseg() -> Iterator[str]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        network, velocity = _flowseg(torch.float16)
        inference, training = _peaks(network, velocity, 1)
    trained = sum(weight.numel() for weight in network.parameters())
    side = FlowSegNetworkSettings().side
    yield f"FlowSeg, the paper's large network, {side} x {side} px:"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| trained parameters, the projection for alignment included | {trained / 1e6:.1f} M |"
    yield f"| peak, inference, one image | {inference:.1f} GiB |"
    yield f"| peak, a training step of one image | {training:.1f} GiB |"


def steps(device: torch.device) -> Iterator[str]:
    """What training steps of one image or class take on a device, in bfloat16 where it is a GPU."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    where = machine(device, str(dtype).removeprefix("torch."))
    yield f"A training step of random weights by AdamW; {where}:"
    yield ""
    yield "| | s | norm of the gradient |"
    yield "|---|---|---|"
    for title, make in (("DiGSeg, one class", _digseg), ("FlowSeg, one image", _flowseg)):
        seconds, norm = _step(*make(dtype, device), device)
        yield f"| {title} | {seconds:.2f} | {norm:.2g} |"


def _step(
    network: nn.Module, run: Callable[[int], torch.Tensor], device: torch.device
) -> tuple[float, float]:
    """Seconds of the faster of two steps, and the norm of the gradients of the last."""
    optimizer = torch.optim.AdamW(network.parameters(), 1e-5)

    def step() -> None:
        optimizer.zero_grad()
        (run(1).float() - 1).square().mean().backward()  # networks that begin at zero have a gradient too
        optimizer.step()

    (seconds,) = fastest([step], device, 2)
    norm = float(torch.nn.utils.get_total_norm([w.grad for w in network.parameters() if w.grad is not None]))
    if not 0 < norm < math.inf:
        raise click.ClickException(f"the gradient's norm is {norm} on {device}; expected a number above 0")
    return seconds, norm


def _digseg(dtype: torch.dtype, device: torch.device = CPU) -> Network:
    """DiGSeg's network of random weights, and what makes masks of a number of classes with it."""
    settings = DigSegNetworkSettings()
    side = settings.side // 8
    with _default(dtype), device:
        unet = UNet2DConditionModel(
            sample_size=96,
            cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20),
            use_linear_projection=True,
        )
        network = SegmentingUNet(unet, settings, 768)

    def masks(count: int) -> torch.Tensor:
        like = {"dtype": dtype, "device": device}
        latents = torch.rand(count, 4, side, side, **like)
        states, texts = (torch.rand(count, *size, **like) for size in ((77, 1024), (768,)))
        return one_step(network, latents, states, texts, 999)

    return network, masks


def _flowseg(dtype: torch.dtype, device: torch.device = CPU) -> Network:
    """FlowSeg's network of random weights, and what gives velocities of a number of images with it."""
    settings = FlowSegNetworkSettings()
    with _default(dtype), device:
        network = FlowNetwork(settings, torch.zeros(150, 3))

    def velocity(count: int) -> torch.Tensor:
        places = torch.rand(count, 3, settings.side, settings.side, dtype=dtype, device=device)
        return network(places, torch.rand(count, device=device))[0]

    return network, velocity


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Floating-point tensors are made in this type."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(usual)


def _peaks(network: nn.Module, run: Callable[[int], torch.Tensor], count: int) -> tuple[float, float]:
    """GiB of activations: of `count` at once without gradients, and of one with its backward pass."""
    with torch.no_grad(), TensorMemory() as inference:
        run(count)
    with TensorMemory() as training:
        run(1).sum().backward()
    return inference.peak / 2**30, training.peak / 2**30


def full_size(device: str) -> Iterator[str]:
    for number, part in enumerate((odise, digseg, flowseg)):
        if number:
            yield ""
        yield from part()
    if device:
        yield ""
        yield from steps(torch.device(device))


@click.command()
@click.option("--device", default="", help="Also take training steps there, such as cuda or cpu.")
@click.option("--write", is_flag=True, help="Also write the table into benchmarks/RESULTS.md.")
def main(device: str, write: bool) -> None:
    """Prints the table."""
    command = f" --device {device}" if device else ""
    publish("full-size", [_HEADER.format(device=command)], full_size(device), write=write)


if __name__ == "__main__":
    main()
