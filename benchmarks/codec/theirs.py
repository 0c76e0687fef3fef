"""The same encoder and decoder in PyTorch: the networks that `convert --verify` compares ours with,
plain PyTorch on official tensors, on CUDA where there is one."""

import time
from collections import deque

import numpy as np
import torch
from torch import Tensor

from benchmarks.codec.setting import Part, Variant
from cvvae_jax.convert import families
from cvvae_jax.convert.convert import to_official
from cvvae_jax.convert.verification import torch_reference
from cvvae_jax.models.video_vae import VideoVAE

VERSION = torch.__version__


class Theirs:
    """One chunk through the encoder or the decoder."""

    def __init__(self, part: Part, model: VideoVAE, array: np.ndarray, variant: Variant):
        self.name = f"torch {variant}"
        self._part, self._config = part, model.config
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        # As exact as ours in float32: no products in TF32.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        self._last = variant != "eager"
        spatial = model.config.decoder_attention == "spatial"
        rows = (families.SD3 if spatial else families.SD21).layer_names(model.config)
        self._tensors = {name: self._put(tensor) for name, tensor in to_official(model, rows)}
        self._array = self._put(np.moveaxis(array, -1, 1))
        self._network = (
            torch.compile(self._forward, dynamic=False) if variant == "compiled" else self._forward
        )
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        if variant == "compiled":
            self()
        self.compile_seconds = time.perf_counter() - start

    def _put(self, array: np.ndarray) -> Tensor:
        tensor = torch.tensor(np.asarray(array, np.float32), device=self._device)
        tensor = tensor.to(getattr(torch, self._config.dtype))
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        if self._last and tensor.ndim in formats:
            return tensor.contiguous(memory_format=formats[tensor.ndim])
        return tensor.contiguous()

    def _forward(self, array: Tensor) -> Tensor:
        config = self._config
        if self._part == "encode":
            stages = torch_reference.encoder_stages(
                self._tensors, array, groups=config.norm_groups, causal=config.causal_encoder
            )
            return deque(stages, maxlen=1).pop().chunk(2, 1)[0]
        stages = torch_reference.decoder_stages(
            self._tensors, array, groups=config.norm_groups, causal=config.causal_decoder
        )
        return deque(stages, maxlen=1).pop()

    def __call__(self) -> Tensor:
        """One chunk, to its end."""
        with torch.inference_mode():
            found = self._network(self._array)
        if self._device == "cuda":
            torch.cuda.synchronize()
        return found

    def as_array(self, output: Tensor) -> np.ndarray:
        """In float32, in our order of axes."""
        return np.moveaxis(output.float().cpu().numpy(), 1, -1)

    def device_bytes(self) -> int | None:
        """The most memory that tensors took; None on CPUs, where it is measured."""
        return torch.cuda.max_memory_allocated() if self._device == "cuda" else None


def matmul_rate(dtype: str, *, size: int) -> float:
    """Operations per second of a product of square matrices by PyTorch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.ones((size, size), device=device, dtype=getattr(torch, dtype))
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        matrix @ matrix
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:])
