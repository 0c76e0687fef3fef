"""Official tensor names beside ours: one table for every layout of PyTorch weights.

Rows are read in order, in either direction. In a pair of names, `#` stands for a position (zero-
padded here, plain there) and `*` for one name that both sides share.
"""

import dataclasses
import functools
import re


@dataclasses.dataclass(frozen=True)
class LayerName:
    """The name of a layer in official weights, and its path in our model."""

    official: str
    """Layer name there, without `.weight`, `.bias` or another parameter's name."""

    ours: str
    """Layer path here, without `/kernel`, `/scale`, `/bias` or another parameter's name."""

    unit_axes: int = 0
    """Axes of size 1 behind the two channel axes of the official kernel, where ours is a linear
    layer's."""


_WRAPPERS = {
    *("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
    "_forward_module",
}
_INCEPTION_STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
_I3D_STEM = ("1a_7x7", "2b_1x1", "2c_3x3")
# No network has positions of more digits.
_POSITION = re.compile(r"[0-9]{1,4}")
# Parameters called alike on both sides.
_SAME = {"bias": "bias", "mix_factor": "mix_factor"}
_SAME_IN_NORMS = {"running_mean": "running_mean", "running_var": "running_var"}


def our_path(rows: list[LayerName], official: str) -> tuple[str, LayerName] | None:
    """The flat path here of an official tensor name, and its row; None where no row fits."""
    layer, _, leaf = official.rpartition(".")
    for row in rows:
        if (path := _translate(row.official, row.ours, layer, "{:02d}")) is not None:
            names = _SAME | {"weight": "kernel"}
            if _is_norm(path):
                names |= _SAME_IN_NORMS | {"weight": "scale"}
            return (f"{path}/{names[leaf]}", row) if leaf in names else None
    return None


def official_name(rows: list[LayerName], path: str) -> tuple[str, LayerName] | None:
    """The official name of one of our flat paths, and its row; None where no row fits."""
    layer, _, leaf = path.rpartition("/")
    for row in rows:
        if (name := _translate(row.ours, row.official, layer, "{:d}")) is not None:
            return f"{name}.{(_SAME | _SAME_IN_NORMS).get(leaf, 'weight')}", row
    return None


def without_wrappers(name: str) -> str:
    """A tensor's name without what PyTorch's wrappers of modules put into it, at any place:
    torch.compile, DataParallel and its successors, activation checkpointing."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def modern_name(name: str) -> str:
    """The name that diffusers gives a tensor today: until 2023 the layers of an attention had
    others."""
    modern = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    layer = rf"(\.attentions\.\d+)\.({'|'.join(modern)})\."
    return re.sub(layer, lambda match: f"{match[1]}.{modern[match[2]]}.", name)


def diffusers_names() -> list[LayerName]:
    """AutoencoderKL of any size, and the CV-VAE SD3 family, which has the same names."""
    rows = _quant_convs()
    for end, level, resample in (("encoder", "down", "down"), ("decoder", "up", "up")):
        block = f"{end}.{level}_blocks.#", f"{end}/{level}_blocks/#"
        mid = f"{end}.mid_block", f"{end}/mid_block"
        rows += [
            LayerName(
                f"{block[0]}.resnets.#.conv_shortcut", f"{block[1]}/resnets/#/conv_shortcut", 2
            ),
            LayerName(f"{block[0]}.resnets.#.*", f"{block[1]}/resnets/#/*"),
            LayerName(
                f"{block[0]}.{resample}samplers.0.conv", f"{block[1]}/{resample}samplers/00/conv"
            ),
            LayerName(f"{mid[0]}.resnets.#.*", f"{mid[1]}/resnets/#/*"),
            LayerName(f"{mid[0]}.attentions.0.to_out.0", f"{mid[1]}/attentions/00/to_out"),
            LayerName(f"{mid[0]}.attentions.0.*", f"{mid[1]}/attentions/00/*"),
            LayerName(f"{end}.*", f"{end}/*"),
        ]
    return rows


def svd_names() -> list[LayerName]:
    """AutoencoderKLTemporalDecoder: as AutoencoderKL, with two parts in every residual block of the
    decoder."""
    rows = []
    for there, here in (("mid_block", "mid_block"), ("up_blocks.#", "up_blocks/#")):
        block = f"decoder.{there}.resnets.#", f"decoder/{here}/resnets/#"
        shortcut = "spatial_res_block.conv_shortcut", "spatial_res_block/conv_shortcut"
        rows += [
            LayerName(f"{block[0]}.{shortcut[0]}", f"{block[1]}/{shortcut[1]}", 2),
            LayerName(f"{block[0]}.*.*", f"{block[1]}/*/*"),
        ]
    return [*rows, *diffusers_names()]


def ldm_names(levels: int, *, image: bool) -> list[LayerName]:
    """Names in latent-diffusion's style, with this many resolution levels: of Stable Diffusion's
    own files with `image`, else of the CV-VAE SD2.1 family.

    The decoder's levels count from the highest resolution there, from the lowest here.
    """
    shortcut_axes = 2 if image else 3
    rows = _quant_convs() if image else []
    for end, level in (("encoder", "down"), ("decoder", "up")):
        for i in range(levels):
            position = i if level == "down" else levels - 1 - i
            block = f"{end}.{level}.{i}", f"{end}/{level}_blocks/{position:02d}"
            rows += [
                LayerName(
                    f"{block[0]}.block.#.nin_shortcut",
                    f"{block[1]}/resnets/#/conv_shortcut",
                    shortcut_axes,
                ),
                LayerName(f"{block[0]}.block.#.*", f"{block[1]}/resnets/#/*"),
                LayerName(f"{block[0]}.{level}sample.conv", f"{block[1]}/{level}samplers/00/conv"),
            ]
        rows += _ldm_middle(end)
        rows += [
            LayerName(f"{end}.norm_out", f"{end}/conv_norm_out"),
            LayerName(f"{end}.*", f"{end}/*"),
        ]
    return rows


def _quant_convs() -> list[LayerName]:
    return [
        LayerName("quant_conv", "quant_conv", 2),
        LayerName("post_quant_conv", "post_quant_conv", 2),
    ]


def _ldm_middle(end: str) -> list[LayerName]:
    attention = f"{end}.mid.attn_1", f"{end}/mid_block/attentions/00"
    return [
        LayerName(f"{end}.mid.block_1.*", f"{end}/mid_block/resnets/00/*"),
        LayerName(f"{end}.mid.block_2.*", f"{end}/mid_block/resnets/01/*"),
        LayerName(f"{attention[0]}.norm", f"{attention[1]}/group_norm"),
        LayerName(f"{attention[0]}.q", f"{attention[1]}/to_q", 2),
        LayerName(f"{attention[0]}.k", f"{attention[1]}/to_k", 2),
        LayerName(f"{attention[0]}.v", f"{attention[1]}/to_v", 2),
        LayerName(f"{attention[0]}.proj_out", f"{attention[1]}/to_out", 2),
        LayerName(f"{attention[0]}.*", f"{attention[1]}/*"),
    ]


def discriminator_names(layers: int) -> list[LayerName]:
    """The 3-D discriminator with this many residual blocks: a plain sequence of three entries a
    block there."""
    rows = [LayerName("main.0", "conv_in")]
    for i in range(layers):
        rows += [
            LayerName(f"main.{3 * i + 2}.nin_shortcut", f"blocks/{i:02d}/conv_shortcut", 3),
            LayerName(f"main.{3 * i + 2}.*", f"blocks/{i:02d}/*"),
            LayerName(f"main.{3 * i + 3}", f"norms/{i:02d}"),
        ]
    return [*rows, LayerName(f"main.{3 * layers + 2}", "conv_out")]


def lpips_names(*, torchvision: bool = False) -> list[LayerName]:
    """LPIPS with VGG16: positions there count torchvision's layers, ReLU and pooling included.

    With `torchvision` the network is called as in torchvision's own VGG16, else as in LPIPS.
    """
    positions = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
    rows = []
    for i, level in enumerate(positions):
        network = "features" if torchvision else f"net.slice{i + 1}"
        rows += [
            LayerName(f"{network}.{p}", f"levels/{i:02d}/{j:02d}") for j, p in enumerate(level)
        ]
        rows.append(LayerName(f"lin{i}.model.1", f"heads/{i:02d}", 2))
    return rows


def alex_lpips_names(*, torchvision: bool = False) -> list[LayerName]:
    """LPIPS with AlexNet, as `lpips_names`."""
    rows = []
    for i, position in enumerate((0, 3, 6, 8, 10)):
        network = "features" if torchvision else f"net.slice{i + 1}"
        rows.append(LayerName(f"{network}.{position}", f"layers/{i:02d}"))
        rows.append(LayerName(f"lin{i}.model.1", f"heads/{i:02d}", 2))
    return rows


def i3d_names() -> list[LayerName]:
    """Inception-I3D, pytorch-i3d's names: single layers, then blocks of named branches."""
    layers = {f"Conv3d_{name}": f"stem/{i:02d}" for i, name in enumerate(_I3D_STEM)}
    for i, blocks in enumerate(("3b 3c", "4b 4c 4d 4e 4f", "5b 5c")):
        for j, name in enumerate(blocks.split()):
            layers[f"Mixed_{name}.*"] = f"levels/{i:02d}/{j:02d}/*"
    rows = [LayerName("logits.conv3d", "classifier")]
    for official, ours in layers.items():
        rows += [
            LayerName(f"{official}.conv3d", f"{ours}/conv"),
            LayerName(f"{official}.bn", f"{ours}/norm"),
        ]
    return rows


def inception_names() -> list[LayerName]:
    """InceptionV3, torchvision's names: single layers, then blocks of named ones."""
    layers = {f"Conv2d_{name}": f"stem/{i:02d}" for i, name in enumerate(_INCEPTION_STEM)}
    blocks = "5b 5c 5d 6a 6b 6c 6d 6e 7a 7b 7c"
    layers |= {f"Mixed_{name}.*": f"blocks/{i:02d}/*" for i, name in enumerate(blocks.split())}
    rows = [LayerName("fc", "classifier")]
    for official, ours in layers.items():
        rows += [
            LayerName(f"{official}.conv", f"{ours}/conv"),
            LayerName(f"{official}.bn", f"{ours}/norm"),
        ]
    return rows


def _is_norm(path: str) -> bool:
    layer = path.split("/")
    return "norm" in layer[-1] or layer[0] == "norms"


def _translate(source: str, target: str, name: str, number: str) -> str | None:
    """`name`, a match of the pattern `source`, in the words of `target`; None where it doesn't
    match."""
    match = _pattern(source).fullmatch(name)
    if match is None:
        return None
    values = (number.format(int(v)) if _POSITION.fullmatch(v) else v for v in match.groups())
    return re.sub(r"[#*]", lambda _: next(values), target)


@functools.cache
def _pattern(source: str) -> re.Pattern:
    position = f"({_POSITION.pattern})"
    escaped = re.escape(source).replace(r"\#", position).replace("#", position)
    return re.compile(escaped.replace(r"\*", r"(\w+)"))
