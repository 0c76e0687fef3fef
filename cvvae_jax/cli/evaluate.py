"""The command `evaluate`: measures VAEs by a protocol and compares them."""

import dataclasses
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cvvae_jax.arguments import parse
from cvvae_jax.cli.program import program, track
from cvvae_jax.config import DType
from cvvae_jax.config.checks import at_least
from cvvae_jax.errors import UserError, visible
from cvvae_jax.resources import configs_folder
from cvvae_jax.resumable.share import Share

if TYPE_CHECKING:
    from cvvae_jax.evaluation.contenders import Contender
    from cvvae_jax.evaluation.run import Evaluation, NetworkFile
    from cvvae_jax.processes.group import Processes


@dataclasses.dataclass(frozen=True)
class EvaluateArguments:
    """Measure VAEs on clips by a protocol, and compare them.

    Writes results.json and report.html into a folder. Give an interrupted command again to resume
    it. Contenders can be added to a folder later. Several processes share the clips if each gets
    its --process-index, on machines that reach the data and the folder; the process that ends last
    writes the results. With --distributed, the processes of a cluster find each other as those of
    `train` do.
    """

    contenders: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME=]PATH")
    ]
    """Models to measure: recipes (their run folders), run folders, checkpoints, saved models or
    PyTorch weights, of video VAEs, image VAEs and SVD's VAE. The others are compared with the first
    one."""
    data: str
    """Clips: a folder, pattern, list, shards or tfds:NAME, as for training."""
    protocol: str
    """A protocol: cvvae-paper, cvvae-paper-images, wfvae, vidtok, full, or your own .toml file."""
    out: Path | None = None
    """Folder for the results; default: evaluations/PROTOCOL."""
    image_vae: str | None = None
    """Image VAE, which is measured frame by frame as another contender, and whose compatibility
    with the video VAEs is measured. Default: the image VAE of the first run that was trained with
    one; `none`: no image VAE."""
    baselines: tuple[Literal["nearest", "linear", "bicubic"], ...] = ("nearest", "linear")
    """Baselines without a model: `nearest` and `linear` keep one frame in k and fill in the others,
    `bicubic` scales every frame down and up."""
    lpips: Path | None = None
    """Weights of LPIPS with VGG16; without weights, LPIPS is not measured."""
    lpips_heads: Path | None = None
    """Heads of LPIPS, if --lpips is torchvision's VGG16."""
    lpips_alex: Path | None = None
    """Weights of LPIPS with AlexNet."""
    lpips_alex_heads: Path | None = None
    """Heads of LPIPS, if --lpips-alex is torchvision's AlexNet."""
    i3d: Path | None = None
    """Weights of I3D, for rFVD."""
    inception: Path | None = None
    """Weights of FID's Inception, for rFID of frames."""
    dtype: DType | None = None
    """Type of the models' parameters and computation; default: as stored."""
    matmul_precision: Literal["default", "high", "highest"] = "highest"
    """Precision of float32 products. With `default`, TPUs and GPUs round them, and figures differ
    between devices."""
    examples: int = 1
    """Number of clips with the worst PSNR, and with the best, that the report shows per model."""
    batch: int | None = None
    """Clips that a model takes at once; default: one per device, or one if clips are whole
    videos."""
    readers: int = 2
    """Clips that are read ahead, in threads."""
    share: tyro.conf.OmitArgPrefixes[Share] = dataclasses.field(default_factory=Share)
    distributed: tyro.conf.FlagCreatePairsOff[bool] = False
    """This process is one of several that share the clips."""

    def __post_init__(self):
        at_least(self, 1, "readers")
        at_least(self, 0, "examples")
        if self.batch is not None:
            at_least(self, 1, "batch")


def main(command_line: list[str], *, joined: "Processes | None" = None) -> None:
    """Run the command.

    Args:
        command_line: arguments after the name of the command.
        joined: the processes that share the clips, with --distributed.

    Raises:
        UserError: an argument or a file cannot be used.
        SystemExit: the arguments are malformed, or help was asked for.
    """
    arguments = parse(EvaluateArguments, command_line, prog=program("evaluate"))
    if not arguments.contenders:
        raise UserError("a contender is missing: name a run folder, a checkpoint or weights.")
    _say(
        f"Measuring {', '.join(arguments.contenders)} on {arguments.data} by the protocol "
        f"{arguments.protocol}: reading the models"
    )
    # Imported here, so that help is answered without starting jax.
    import jax

    from cvvae_jax.evaluation.run import evaluate

    jax.config.update("jax_default_matmul_precision", arguments.matmul_precision)
    share = arguments.share if joined is None else Share(joined.index, joined.count)
    evaluation = _evaluation(arguments)
    _say(f"Device: {jax.devices()[0].device_kind}")
    _say(f"{len(evaluation.clips)} clips; results go to {evaluation.out}")
    barrier = None if joined is None else joined.barrier
    report = evaluate(evaluation, share=share, barrier=barrier, track=track)
    if report is None:
        print(f"{evaluation.out}: {share} is done; other processes have not finished theirs.")
    else:
        _print_table(report.parent)


def _say(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)


def _evaluation(arguments: EvaluateArguments) -> "Evaluation":
    from cvvae_jax.evaluation.contenders import baseline_contender, model_contender
    from cvvae_jax.evaluation.protocol import load_protocol
    from cvvae_jax.evaluation.run import Evaluation

    name, protocol = load_protocol(arguments.protocol, folder=configs_folder() / "protocols")
    contenders = [model_contender(path, dtype=arguments.dtype) for path in arguments.contenders]
    image_vae = _image_vae(arguments)
    if image_vae is not None and image_vae.sha256 not in {c.sha256 for c in contenders}:
        contenders.append(image_vae)
    if protocol.media == "video":
        like = max(contenders, key=lambda contender: contender.temporal_compression)
        contenders += [
            baseline_contender(kind, like) for kind in dict.fromkeys(arguments.baselines)
        ]
    return Evaluation(
        name=name,
        protocol=protocol,
        data=arguments.data,
        out=arguments.out or Path("evaluations") / name,
        contenders=contenders,
        image_vae=image_vae,
        networks=_networks(arguments, set(protocol.metrics)),
        examples=arguments.examples,
        batch=arguments.batch,
        readers=arguments.readers,
    )


def _image_vae(arguments: EvaluateArguments) -> "Contender | None":
    """The image VAE that the user names, or else that of the first run that has one.

    Raises:
        UserError: the model that the user names is no image VAE.
    """
    from cvvae_jax.evaluation.contenders import image_vae_of, model_contender, named_path

    if arguments.image_vae == "none":
        return None
    path = arguments.image_vae
    if path is None:
        of_runs = (image_vae_of(named_path(contender)[1]) for contender in arguments.contenders)
        found = next((path for path in of_runs if path is not None), None)
        if found is None:
            return None
        path = f"image-vae={found}"
    contender = model_contender(path, dtype=arguments.dtype)
    if contender.kind != "ImageVAE":
        raise UserError(f"--image-vae {path} holds {contender.kind}, not ImageVAE.")
    return contender


def _networks(arguments: EvaluateArguments, metrics: set[str]) -> "dict[str, NetworkFile]":
    """The networks of metrics that the protocol asks for and weights are given for, by metric.

    Raises:
        UserError: a file holds another network.
    """
    from cvvae_jax.convert.card import sha256
    from cvvae_jax.evaluation.metrics import METRICS
    from cvvae_jax.evaluation.run import NetworkFile
    from cvvae_jax.loading import load, open_model

    found = {}
    for metric in METRICS.values():
        network = metric.network
        if network is None or metric.name not in metrics:
            continue
        path = getattr(arguments, network.option)
        heads = getattr(arguments, network.heads_option) if network.heads_option else None
        if path is None:
            continue
        opened = open_model(path, lpips_heads=heads)
        if not issubclass(opened.model_class, network.model_class):
            flag, wanted = network.option.replace("_", "-"), network.model_class.__name__
            raise UserError(f"--{flag} {path} holds {opened.model_class.__name__}, not {wanted}.")
        files = (opened.weight_files, () if heads is None else (heads,))
        digest = sha256(tuple(itertools.chain(*files)))
        model = load(path, lpips_heads=heads)
        found[metric.name] = NetworkFile(str(path), digest, model)
    return found


def _print_table(folder: Path) -> None:
    """Print the figures of every contender, and the files that have the rest."""
    import json

    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    metrics = [m for m in results["metrics"] if m["group"] != "time" or m["better"] != "one"]
    width = max(len(contender["name"]) for contender in results["contenders"])
    clips, left_out = (len(results["data"][name]) for name in ("clips", "left_out"))
    print(
        f"{results['protocol']['name']} on {clips} clips"
        + f", {left_out} left out" * bool(left_out)
    )
    labels = [metric["label"] for metric in metrics]
    print("  ".join([" " * width, *(f"{label:>8}" for label in labels)]))
    contenders = results["contenders"]
    models = [each["name"] for each in contenders if each["kind"] != "baseline"]
    baselines = [each["name"] for each in contenders if each["kind"] == "baseline"]
    for title, names in (("", models), ("baselines, which are not ranked:", baselines)):
        if title and names:
            print(title)
        for name in names:
            scores = results["scores"][name]
            cells = [_cell(scores.get(m["key"]), m, max(8, len(m["label"]))) for m in metrics]
            print("  ".join([f"{name:<{width}}", *cells]))
    measured = {name: results["flat_fields"].get(name) for name in models}
    if any(measured.values()):
        print("flat fields (clips of one color), errors in 8-bit levels:")
    for name, found in measured.items():
        if not found:
            continue
        print(
            f"{name:<{width}}  color off by {found['color']:.2f}, "
            f"structure {found['structure']:.2f}"
        )
    for missing in results["not_measured"]:
        print(f"not measured: {missing['metric']}: {missing['reason']}")
    print(f"{folder / 'report.html'} shows the rest; {folder / 'results.json'} has every figure.")


def _cell(score: dict[str, Any] | None, metric: dict[str, Any], width: int) -> str:
    text = "-" if score is None else f"{score['value']:.{metric['digits']}f}"
    return f"{text:>{width}}"
