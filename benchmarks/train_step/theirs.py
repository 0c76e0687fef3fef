"""The same training step in PyTorch, run eagerly, in the official code's way.

Networks are those that `convert --verify` compares ours with: plain PyTorch, on official tensors.
As in the official code, the adaptive weight takes two backward passes to the last layer before the
one through everything; steps of the discriminator run the VAE without gradients. Unlike it, they
leave out the image decoder, whose output they don't use, and nothing is computed twice to save
memory.
"""

import contextlib
import dataclasses
import itertools
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.train_step.setting import Networks, Row, random_batch
from cvvae_jax.config import OptimizerConfig, TrainConfig
from cvvae_jax.convert import families
from cvvae_jax.convert.convert import to_official
from cvvae_jax.convert.verification import torch_reference
from cvvae_jax.hardware import peak_flops

Tensors = dict[str, Tensor]
_LAST_LAYER = "decoder.conv_out.weight"


@dataclasses.dataclass(frozen=True)
class OfficialNetworks:
    """All tensors by official names; the frozen ones need no gradient."""

    config: TrainConfig
    vae: Tensors
    log_scales: tuple[Tensor, Tensor]
    """Of the reconstruction and of the image decoder's view."""
    discriminator: Tensors
    image_vae: Tensors
    lpips: Tensors

    @classmethod
    def create(cls, networks: Networks, config: TrainConfig, *, device: str) -> "OfficialNetworks":
        """Ours in PyTorch."""
        family = families.SD3 if config.model.decoder_attention == "spatial" else families.SD21

        def tensors(model: Any, family: families.Family, *, trained: bool) -> Tensors:
            return {
                name: torch.tensor(array, device=device, requires_grad=trained)
                for name, array in to_official(model, family.layer_names(model.config))
            }

        log_scale = torch.full((), config.loss.log_scale, device=device)
        return cls(
            config=config,
            vae=tensors(networks.model, family, trained=True),
            log_scales=tuple(log_scale.clone().requires_grad_() for _ in range(2)),
            discriminator=tensors(networks.discriminator, families.DISCRIMINATOR, trained=True),
            image_vae=tensors(networks.frozen.image_vae, families.IMAGE, trained=False),
            lpips=tensors(networks.frozen.lpips, families.PERCEPTUAL, trained=False),
        )

    @property
    def trained(self) -> list[Tensor]:
        """By the generator's optimizer."""
        return [*self.vae.values(), *self.log_scales]

    def encode(self, video: Tensor) -> Tensor:
        """Means and log-variances."""
        model = self.config.model
        stages = torch_reference.encoder_stages(
            self.vae, video, groups=model.norm_groups, causal=model.causal_encoder
        )
        return _last(stages).float()

    def decode(self, latents: Tensor) -> Tensor:
        """The video."""
        model = self.config.model
        stages = torch_reference.decoder_stages(
            self.vae, latents, groups=model.norm_groups, causal=model.causal_decoder
        )
        return _last(stages).float()

    def view(self, latents: Tensor) -> Tensor:
        """Frames by the frozen image decoder."""
        groups = self.config.image_model.norm_groups
        stages = torch_reference.decoder_stages(
            self.image_vae, latents, groups=groups, causal=False
        )
        return _last(stages).float()

    def judge(self, video: Tensor) -> Tensor:
        """The discriminator's logits."""
        groups = self.config.discriminator.norm_groups
        stages = torch_reference.discriminator_stages(self.discriminator, video, groups=groups)
        return _last(stages).float()

    def distance(self, video: Tensor, other: Tensor) -> Tensor:
        """LPIPS of every frame, (b, t)."""
        return _last(torch_reference.lpips_stages(self.lpips, video, other))


def generate(
    networks: OfficialNetworks, video: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Reconstruction, latents and KL divergence."""
    mean, logvar = networks.encode(video).chunk(2, 1)
    logvar = logvar.clamp(-30, 20)
    latents = mean + (0.5 * logvar).exp() * noise
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / len(video)
    return networks.decode(latents), latents, kl


def generator_loss(
    networks: OfficialNetworks, video: Tensor, noise: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """The objective, GAN term included, and the reconstruction."""
    loss = networks.config.loss
    recon, latents, kl = generate(networks, video, noise)
    distance = networks.distance(recon, video)[:, None, :, None, None]
    error = (recon - video).abs() + loss.lpips_weight * distance
    nll = _likelihood(error, networks.log_scales[0])
    view_error = (networks.view(latents) - _targets(video, offsets)).abs()
    nll = nll + loss.compat_weight * _likelihood(view_error, networks.log_scales[1])
    gan = -networks.judge(recon).mean()
    weight = loss.gan_weight * _adaptive_weight(networks, nll, gan)
    return nll + weight * gan + loss.kl_weight * kl, recon


def discriminator_loss(networks: OfficialNetworks, video: Tensor, recon: Tensor) -> Tensor:
    """The hinge loss."""
    real, fake = networks.judge(video), networks.judge(recon.detach())
    return 0.5 * (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean())


def _adaptive_weight(networks: OfficialNetworks, nll: Tensor, gan: Tensor) -> Tensor:
    last = networks.vae[_LAST_LAYER]
    lengths = (torch.autograd.grad(x, last, retain_graph=True)[0].norm() for x in (nll, gan))
    nll_length, gan_length = lengths
    return (nll_length / (gan_length + 1e-4)).clamp(0, 1e4).detach()


def _likelihood(error: Tensor, log_scale: Tensor) -> Tensor:
    frames = error.shape[0] * error.shape[2]
    return (error / log_scale.exp() + log_scale).sum() / frames


def _targets(video: Tensor, offsets: Tensor) -> Tensor:
    """One frame for every latent frame: the first, then one of every four."""
    first = torch.zeros_like(offsets[:1])
    starts = 1 + 4 * torch.arange(len(offsets), device=video.device)
    return video[:, :, torch.cat([first, starts + offsets])] if len(offsets) else video


def _last(stages: Iterable[Tensor]) -> Tensor:
    """Without keeping the others."""
    return deque(stages, maxlen=1).pop()


class TheirStep:
    """Networks, a batch and optimizers of a row; a call is a step of every kind."""

    def __init__(self, row: Row):
        self._row, config = row, row.config
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if self._device == "cuda":
            torch.set_default_device(self._device)
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
            torch.backends.cudnn.benchmark = True
        self.networks = OfficialNetworks.create(Networks.random(row), config, device=self._device)
        batch = random_batch(row.bucket)["video"].astype(np.float32) / 127.5 - 1
        self._video = torch.tensor(np.moveaxis(batch, -1, 1).copy(), device=self._device)
        self._optimizers = {
            "generator": _adamw(self.networks.trained, config.train.optimizer),
            "discriminator": _adamw(
                list(self.networks.discriminator.values()), config.train.gan_optimizer
            ),
        }

    def __call__(self) -> dict[str, float]:
        """Seconds of each."""
        seconds = {}
        for update in self._row.programs:
            start = time.perf_counter()
            self._step(update)
            if self._device == "cuda":
                torch.cuda.synchronize()
            seconds[update] = time.perf_counter() - start
        return seconds

    def _step(self, update: str) -> None:
        networks, video = self.networks, self._video
        noise, offsets = self._draws()
        if update == "discriminator":
            with torch.no_grad(), self._autocast():
                recon, *_ = generate(networks, video, noise)
        else:
            with _not_trained(networks.discriminator), self._autocast():
                loss, recon = generator_loss(networks, video, noise, offsets)
            loss.backward()
        if update != "generator":
            with self._autocast():
                loss = discriminator_loss(networks, video, recon)
            loss.backward()
        for name, optimizer in self._optimizers.items():
            if update in (name, "joint"):
                _update(optimizer, self._row.config)

    def _draws(self) -> tuple[Tensor, Tensor]:
        b, _, t, h, w = self._video.shape
        shape = (b, self._row.config.model.latent_channels, (t + 3) // 4, h // 8, w // 8)
        offsets = torch.randint(0, 4, ((t - 1) // 4,), device=self._device)
        return torch.randn(shape, device=self._device), offsets

    def _autocast(self):
        if self._row.precision != "bfloat16":
            return contextlib.nullcontext()
        return torch.autocast(self._device, torch.bfloat16)

    def facts(self) -> dict[str, Any]:
        """What doesn't change from step to step."""
        on_gpu = self._device == "cuda"
        name = torch.cuda.get_device_name() if on_gpu else "CPU"
        return {
            "device": f"{name} ({self._device}, {torch.get_num_threads()} threads)",
            "versions": f"torch {torch.__version__}",
            "peak_flops": peak_flops(name),
        }

    def peak_bytes(self) -> int | None:
        """The most memory that tensors ever took; None on CPUs."""
        return torch.cuda.max_memory_allocated() if self._device == "cuda" else None


@contextlib.contextmanager
def _not_trained(tensors: Tensors) -> Iterator[None]:
    """Without gradients for these; what is computed meanwhile never has any."""
    for tensor in tensors.values():
        tensor.requires_grad_(False)
    yield
    for tensor in tensors.values():
        tensor.requires_grad_(True)


def _adamw(tensors: list[Tensor], config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        tensors,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def _update(optimizer: torch.optim.Optimizer, config: TrainConfig) -> None:
    tensors = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
    torch.nn.utils.clip_grad_norm_(list(tensors), config.train.optimizer.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
