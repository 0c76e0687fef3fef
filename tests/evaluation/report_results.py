"""Results as an evaluation writes them: four contenders, fourteen clips, one of which is bad."""

import numpy as np

FRAMES, CLIPS = 33, 14
METRICS = (
    ("psnr", "PSNR", "dB", "higher", 2, "frames", "Peak signal to noise, of 8-bit values."),
    ("ssim", "SSIM", "", "higher", 4, "frames", "Structural similarity, Gaussian window of 11."),
    ("lpips_vgg", "LPIPS", "", "lower", 4, "frames", "Perceptual distance by VGG's features."),
    ("flicker", "Flicker", "levels", "lower", 2, "time", "Error above a quarter cycle a frame."),
    ("seam", "Tile seams", "", "one", 3, "time", "Error across tile borders over that inside."),
    ("rfvd", "rFVD", "", "lower", 1, "distribution", "Frechet distance of I3D logits."),
)
# psnr, ssim, lpips, flicker, seam, rfvd
MEANS = {
    "quickstart": (29.41, 0.861, 0.121, 2.31, 1.02, 212.4),
    "no-compat": (28.96, 0.858, 0.1208, 2.55, 1.01, 221.9),
    "image-vae": (31.62, 0.902, 0.083, 2.92, 1.0, 141.2),
    "linear": (22.18, 0.704, 0.241, 1.62, None, 642.7),
}
NAMES = tuple(MEANS)


def results() -> dict:
    """All of results.json; the same on every call."""
    random = np.random.default_rng(0)
    hard = random.normal(size=CLIPS)
    clips = {name: _clips(name, hard, random) for name in NAMES}
    return {
        "protocol": {"name": "cvvae-paper", "hash": "5f" * 32, "frames": FRAMES, "stride": 3}
        | {"size": 256, "resize": {"filter": "bicubic", "antialias": True}, "sampling": "mode"},
        "data": _data(),
        "reference": "quickstart",
        "contenders": _contenders(),
        "metrics": [
            {"key": key, "label": label, "unit": unit, "better": better, "digits": digits}
            | {"group": group, "description": text}
            for key, label, unit, better, digits, group, text in METRICS
        ],
        "scores": {name: {k: _score(v) for k, v in of.items()} for name, of in clips.items()},
        "paired": {
            name: {
                key: _difference(clips[name][key], clips["quickstart"][key])
                for key in clips[name]
                if clips[name][key][0] is not None
            }
            for name in NAMES[1:]
        },
        "series": {name: _series(name, random) for name in NAMES},
        "compatibility": {name: _compatibility(name, random) for name in NAMES[:2]},
        "flat_fields": {name: _flat_fields(name, random) for name in NAMES},
        "examples": [],
        "environment": {
            "command": "python eval.py runs/quickstart runs/other=no-compat --data corpus/videos",
            "device": "cpu",
            "devices": 1,
            "processes": 1,
            "matmul_precision": "highest",
            "versions": {"cvvae_jax": "0.1.0", "jax": "0.10.2", "numpy": "2.3.4"},
            "seconds": 812.4,
            "date": "2026-11-22 08:15 UTC",
        },
    }


def _clips(name: str, hard: np.ndarray, random) -> dict[str, np.ndarray]:
    spread = (2.4, 0.04, 0.02, 0.35, 0.02)
    found = {}
    for (key, *_), mean, scale in zip(METRICS[:-1], MEANS[name], spread, strict=False):
        noise = hard + 0.08 * random.normal(size=CLIPS)
        found[key] = [None] * CLIPS if mean is None else list(mean + scale * noise)
    return found | {"rfvd": [MEANS[name][-1]]}


def _score(clips: list) -> dict:
    if clips[0] is None:
        return {"value": None, "low": None, "high": None, "clips": clips}
    if len(clips) == 1:
        return {"value": clips[0], "low": 0.93 * clips[0], "high": 1.1 * clips[0], "clips": None}
    return _interval(np.array(clips), "value") | {"clips": [float(clip) for clip in clips]}


def _difference(clips: list, reference: list) -> dict:
    if len(clips) == 1:
        gap = clips[0] - reference[0]
        return {"difference": gap, "low": gap - 14, "high": gap + 11}
    return _interval(np.subtract(clips, reference), "difference")


def _interval(values: np.ndarray, name: str) -> dict:
    mean, half = float(values.mean()), 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5
    return {name: mean, "low": mean - half, "high": mean + half}


def _data() -> dict:
    stems = ("mallard_on_water", "skateboarding_dog", "pouring_coffee", "roller_coaster")
    return {
        "place": "corpus/videos",
        "hash": "c4" * 32,
        "clips": [
            {"name": f"{i:03d}_{stems[i % 4]}.mp4", "sha256": f"{i:02x}" * 32, "start": 0}
            | {"frames": FRAMES, "fps": 25.0, "height": 256, "width": 256}
            for i in range(CLIPS)
        ],
        "left_out": [{"name": "099_short.mp4", "reason": "it has 21 frames; 97 are needed."}],
    }


def _contenders() -> list[dict]:
    kinds = {"image-vae": "ImageVAE", "linear": "baseline"}
    found = []
    for number, name in enumerate(NAMES):
        trained = name != "linear"
        found.append(
            {"name": name, "kind": kinds.get(name, "VideoVAE"), "description": f"{name} by itself"}
            | {"weights": f"runs/{name}" if trained else None}
            | {"sha256": f"{number + 160:02x}" * 32 if trained else None}
            | {"parameters": 3_512_841 if trained else None, "spatial_compression": 8}
            | {"temporal_compression": 1 if name == "image-vae" else 4, "latent_channels": 4}
        )
    found[-1] |= {"spatial_compression": 1, "latent_channels": 3}
    return found


def _series(name: str, random) -> dict:
    level, frames = MEANS[name][0], np.arange(FRAMES)
    depth = {"image-vae": 0, "linear": 5}.get(name, 0.8)
    teeth = depth * np.cos(2 * np.pi * frames / 4) + 0.1 * random.normal(size=FRAMES)
    psnr = level + teeth - 0.01 * frames
    psnr[0] += depth
    groups = [psnr[0], *(psnr[1 + i :: 4].mean() for i in range(4))]
    frequencies = np.arange(9) / 16
    power = 1e-3 * 10 ** ((30 - level) / 10) * (1 + 30 * np.exp(-20 * frequencies))
    return {
        "psnr_over_time": psnr.tolist(),
        "psnr_by_group_position": [float(value) for value in groups],
        "psnr_by_chunk_position": [*psnr[:16].tolist(), None],
        "spectrum": {"frequencies": frequencies.tolist(), "power": power.tolist()},
    }


def _flat_fields(name: str, random) -> dict:
    """Made-up results of flat fields; those of the baseline are zeros."""
    size = 0.0 if name == "linear" else 1.0
    kinds = ("structure", "border", "lattice", "time", "first_frame", "group_phase", "chunk_phase")
    return {
        "frames": FRAMES,
        "side": 128,
        "colors": [[0, 0, 0], [128, 128, 128]],
        "color": 2.345 * size,
        **{kind: (1.5 - 0.17 * number) * size for number, kind in enumerate(kinds)},
        "tile": None,
        "by_frame": (size * (1 + random.random(FRAMES))).tolist(),
        "spectrum": {
            "frequencies": (np.arange(49) / 96).tolist(),
            "power": [0.0, *(size * random.random(48) / (1 + np.arange(48))).tolist()],
        },
        "pictures": [],
    }


def _compatibility(name: str, random) -> dict:
    cross = {"quickstart": 27.9, "no-compat": 11.3}[name]
    levels = {"Ei-Di": 31.62, "Ei-Dv": cross - 1, "Ev-Di": cross, "Ev-Dv": MEANS[name][0]}

    def scores(psnr: float) -> dict:
        return {"lpips_vgg": 0.5 - psnr / 75, "psnr": psnr, "ssim": psnr / 34}

    spread = 0.2 if name == "quickstart" else 2.0
    return {
        "matrix": {
            "video": {pair: scores(level) for pair, level in levels.items()},
            "image": {pair: scores(level + 0.4) for pair, level in levels.items()},
        },
        "mappings": {
            mapping: scores(cross - gap)
            for mapping, gap in {"first": 1.2, "slice": 0, "mean": 0.4, "random": 0.9}.items()
        },
        "color_shift": {
            pair: random.normal(scale=0.2 if pair[1] == pair[4] else 5 * spread, size=3).tolist()
            for pair in levels
        },
        "latents": {
            "channels": [
                {"mean_video": m + spread * e, "std_video": 0.9, "mean_image": m, "std_image": 0.8}
                for m, e in random.normal(size=(4, 2)).tolist()
            ],
            "kl": 3.1 * spread,
            "kl_by_position": [0.8 * spread, *(3 * spread + random.random(4)).tolist()],
            "frechet": 4.2 * spread,
            "frechet_within": 0.31,
            "distance_by_position": (0.2 * spread + 0.1 * random.random(5)).tolist(),
            "mmd": 0.06 * spread,
            "probe_r2": {"image_from_video": 0.93, "video_from_image": 0.88},
        },
        "lipschitz": {"distance": 0.3 * spread, "loss": 0.11, "largest": 2.1, "loss_bound": 0.4}
        | {"within_bound": 1.0, "chord": None, "extra": {"points": 3}},
    }


def clip_and_recon(frames: int = 8, size: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A uint8 clip of moving colors, and the same with errors, (t, h, w, 3)."""
    random = np.random.default_rng(seed)
    t, y, x = np.meshgrid(*map(np.arange, (frames, size, size)), indexing="ij")
    waves = [np.sin((x + k * y) * 9 / size + t / (2 + k) + seed) for k in range(3)]
    video = np.stack([128 + 90 * wave for wave in waves], axis=-1)
    error = random.normal(scale=14, size=video.shape) * (x > size / 2)[..., None]
    return video.astype(np.uint8), (video + error).clip(0, 255).astype(np.uint8)
