"""The same convolution by PyTorch, on CUDA where there is one."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.convolutions.shapes import Shape

VARIANTS = ("torch", "torch channels_last")


class Theirs:
    """One pass of a convolution in one memory format."""

    compile_seconds = 0.0

    def __init__(self, shape: Shape, variant: str, which: str, dtype: str):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        self._shape, self._which, self._dtype = shape, which, getattr(torch, dtype)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._last = variant == VARIANTS[1]
        video, kernel, cotangent = shape.random()
        self._video = self._put(np.moveaxis(video, -1, 1))
        self._kernel = self._put(np.moveaxis(kernel, (3, 4), (1, 0)))
        self._cotangent = self._put(np.moveaxis(cotangent, -1, 1))
        if which != "forward":
            self._argument = self._video if which == "to video" else self._kernel
            self._argument.requires_grad_()
            self._output = self._forward()

    def _put(self, array: np.ndarray) -> Tensor:
        tensor = torch.tensor(array, device=self._device).to(self._dtype)
        layout = torch.channels_last_3d if self._last else torch.contiguous_format
        return tensor.contiguous(memory_format=layout)

    def _forward(self) -> Tensor:
        video = self._video
        (top, bottom), (left, right) = self._shape.pads
        video = functional.pad(video, (left, right, top, bottom))
        if self._shape.upsampled:
            video = functional.interpolate(video, scale_factor=(1, 2, 2), mode="nearest")
            video = video[..., 1:-1, 1:-1]
        return functional.conv3d(video, self._kernel, stride=self._shape.strides)

    def __call__(self) -> Tensor:
        """The pass, to its end."""
        if self._which == "forward":
            with torch.inference_mode():
                found = self._forward()
        else:
            (found,) = torch.autograd.grad(
                self._output, self._argument, self._cotangent, retain_graph=True
            )
        if self._device == "cuda":
            torch.cuda.synchronize()
        return found

    def as_array(self, output: Tensor) -> np.ndarray:
        """In float32, in our order of axes."""
        array = output.float().cpu().numpy()
        if self._which == "to kernel":
            return np.moveaxis(array, (1, 0), (3, 4))
        return np.moveaxis(array, 1, -1)
