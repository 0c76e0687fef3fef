"""`python eval.py CONTENDER .. --data DIR --protocol NAME`: how good VAEs are, by one protocol."""

import dataclasses
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from cvvae_jax.cli.program import program, track
from cvvae_jax.config import DType
from cvvae_jax.config.checks import at_least
from cvvae_jax.errors import UserError
from cvvae_jax.resources import configs_folder
from cvvae_jax.resumable.share import Share

if TYPE_CHECKING:
    from cvvae_jax.evaluation.contenders import Contender
    from cvvae_jax.evaluation.run import Evaluation, NetworkFile
    from cvvae_jax.processes.group import Processes


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure VAEs on clips by a protocol, and compare them.

    Writes results.json and report.html into a folder. A command that was interrupted goes on where
    it was when it is given again, and contenders can be added to a folder later. Several processes
    share the clips when each is given its --process-index, on machines that reach the data and the
    folder; the one that ends last writes the results. With --distributed they are those of a
    cluster, found as those of the command `train`.
    """

    contenders: Annotated[
        tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[NAME=]PATH")
    ]
    """What is measured: recipes (their run folders), run folders, checkpoints, saved models or
    PyTorch weights of video VAEs, image VAEs and SVD's VAE. The first one is what differences are
    taken against."""
    data: str
    """Clips: a folder, pattern, list, shards or tfds:NAME, as for training."""
    protocol: str
    """cvvae-paper, cvvae-paper-images, wfvae, vidtok or full; or a .toml file of your own."""
    out: Path | None = None
    """Folder for the results; default: evaluations/PROTOCOL."""
    image_vae: str | None = None
    """The image VAE: a contender, frame by frame, and what compatibility is measured with. Default:
    that of the first run that was trained with one; `none`: no image VAE."""
    baselines: tuple[Literal["nearest", "linear", "bicubic"], ...] = ("nearest", "linear")
    """What any model must beat: one frame in k kept and the others filled in, or every frame
    bicubically down and up."""
    lpips: Path | None = None
    """Weights of LPIPS with VGG16; without them it isn't measured."""
    lpips_heads: Path | None = None
    """Its heads, where --lpips is torchvision's VGG16."""
    lpips_alex: Path | None = None
    """Weights of LPIPS with AlexNet."""
    lpips_alex_heads: Path | None = None
    """Its heads, where --lpips-alex is torchvision's AlexNet."""
    i3d: Path | None = None
    """Weights of I3D, for rFVD."""
    inception: Path | None = None
    """Weights of FID's Inception, for rFID of frames."""
    dtype: DType | None = None
    """Type of the models' parameters and computation; default: as stored."""
    matmul_precision: Literal["default", "high", "highest"] = "highest"
    """Of products of float32 numbers: at `default`, TPUs and GPUs round them, and figures are no
    longer those of other devices."""
    examples: int = 1
    """Clips with the worst PSNR, and with the best, that the report shows of every model."""
    batch: int | None = None
    """Clips that go through a model at once; default: one for every device, and of whole videos a
    single one."""
    readers: int = 2
    """Clips that are read ahead, in threads."""
    share: tyro.conf.OmitArgPrefixes[Share] = dataclasses.field(default_factory=Share)
    distributed: tyro.conf.FlagCreatePairsOff[bool] = False
    """This is one process of several, which share the clips."""

    def __post_init__(self):
        at_least(self, 1, "readers")
        at_least(self, 0, "examples")
        if self.batch is not None:
            at_least(self, 1, "batch")


def main(arguments: list[str], *, joined: "Processes | None" = None) -> None:
    """Run the command.

    Args:
        arguments: the command line.
        joined: this process among others, with --distributed.

    Raises:
        UserError: an argument or a file cannot be used.
        SystemExit: the arguments are malformed, or help was asked for.
    """
    options = tyro.cli(Evaluate, args=arguments, prog=program("evaluate"))
    if not options.contenders:
        raise UserError("a contender is missing: name a run folder, a checkpoint or weights.")
    # Imported here, so that help is answered without starting jax.
    import jax

    from cvvae_jax.cli.codec_options import keep_compiled_programs
    from cvvae_jax.evaluation.run import evaluate

    keep_compiled_programs()
    jax.config.update("jax_default_matmul_precision", options.matmul_precision)
    share = options.share if joined is None else Share(joined.index, joined.count)
    evaluation = _evaluation(options)
    print(f"Device: {jax.devices()[0].device_kind}", file=sys.stderr, flush=True)
    barrier = None if joined is None else joined.meet
    report = evaluate(evaluation, share=share, barrier=barrier, track=track)
    if report is None:
        print(f"{evaluation.out}: {share} is done; the clips of others are missing.")
    else:
        _print_table(report.parent)


def _evaluation(options: Evaluate) -> "Evaluation":
    from cvvae_jax.evaluation.contenders import baseline_contender, model_contender
    from cvvae_jax.evaluation.protocol import load_protocol
    from cvvae_jax.evaluation.run import Evaluation

    name, protocol = load_protocol(options.protocol, folder=configs_folder() / "protocols")
    contenders = [model_contender(path, dtype=options.dtype) for path in options.contenders]
    image_vae = _image_vae(options)
    if image_vae is not None and image_vae.sha256 not in {c.sha256 for c in contenders}:
        contenders.append(image_vae)
    if protocol.media == "video":
        like = max(contenders, key=lambda contender: contender.temporal_compression)
        contenders += [baseline_contender(kind, like) for kind in dict.fromkeys(options.baselines)]
    return Evaluation(
        name=name,
        protocol=protocol,
        data=options.data,
        out=options.out or Path("evaluations") / name,
        contenders=contenders,
        image_vae=image_vae,
        networks=_networks(options, set(protocol.metrics)),
        examples=options.examples,
        batch=options.batch,
        readers=options.readers,
    )


def _image_vae(options: Evaluate) -> "Contender | None":
    """The one that is named, or that of a run.

    Raises:
        UserError: it is none.
    """
    from cvvae_jax.evaluation.contenders import image_vae_of, model_contender, named_path

    if options.image_vae == "none":
        return None
    path = options.image_vae
    if path is None:
        of_runs = (image_vae_of(named_path(contender)[1]) for contender in options.contenders)
        found = next((path for path in of_runs if path is not None), None)
        if found is None:
            return None
        path = f"image-vae={found}"
    contender = model_contender(path, dtype=options.dtype)
    if contender.kind != "ImageVAE":
        raise UserError(f"--image-vae {path} holds a {contender.kind}; an ImageVAE is wanted.")
    return contender


def _networks(options: Evaluate, metrics: set[str]) -> "dict[str, NetworkFile]":
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
        path = getattr(options, network.option)
        heads = getattr(options, network.heads_option) if network.heads_option else None
        if path is None:
            continue
        opened = open_model(path, lpips_heads=heads)
        if not issubclass(opened.model_class, network.model_class):
            flag, wanted = network.option.replace("_", "-"), network.model_class.__name__
            raise UserError(
                f"--{flag} {path} holds a {opened.model_class.__name__}; {wanted} is wanted."
            )
        files = (opened.weight_files, () if heads is None else (heads,))
        digest = sha256(tuple(itertools.chain(*files)))
        model = load(path, lpips_heads=heads)
        found[metric.name] = NetworkFile(str(path), digest, model)
    return found


def _print_table(folder: Path) -> None:
    """The figures of every contender, a line each, and where the rest is."""
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
        print("flat fields, clips of one color, in 8-bit levels (0 is exact):")
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
