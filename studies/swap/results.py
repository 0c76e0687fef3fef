"""From the pieces' files to the numbers that the rule and the tables take."""

import dataclasses
from typing import Any

import numpy as np

from studies.files import read_json
from studies.swap import rule
from studies.swap.settings import KINDS, TWINS, Kind, Place, Settings

Numbers = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Results:
    """All that was measured, by seed, and by seed and VAE."""

    settings: Settings
    of_seed: dict[int, Numbers]
    of_vae: dict[tuple[int, Kind], Numbers]
    tuning: dict[tuple[int, Kind], Numbers]
    psnr: dict[tuple[int, Kind], list[float]]
    """The reconstruction's PSNR while a VAE was trained."""

    @classmethod
    def read(cls, settings: Settings, place: Place) -> "Results":
        """Reads the files of all pieces."""
        pairs = [(seed, kind) for seed in settings.images for kind in KINDS]

        def of_vaes(name: str) -> dict[tuple[int, Kind], Numbers]:
            return {pair: read_json(place.of_vae(pair[1], pair[0], name)) for pair in pairs}

        return cls(
            settings=settings,
            of_seed={s: read_json(place.of_seed(s, "measures.json")) for s in settings.images},
            of_vae=of_vaes("measures.json"),
            tuning=of_vaes("tuning.json"),
            psnr={
                (seed, kind): read_json(
                    place.of_vae(*settings.vae_of(kind, seed), "training.json")
                )["psnr"]
                for seed, kind in pairs
            },
        )

    def loss(self, seed: int) -> float:
        """L of E_i's latents, averaged over levels."""
        return float(np.mean(self.of_seed[seed]["loss"]))

    def differences(self, seed: int, kind: Kind, way: str) -> np.ndarray:
        """The loss on a VAE's latents, scaled or mapped in this way, minus that on E_i's, at every
        level of noise."""
        return np.subtract(self.of_vae[seed, kind]["loss"][way], self.of_seed[seed]["loss"])

    def gap(self, seed: int, kind: Kind, way: str) -> float:
        """G of a VAE."""
        return float(np.abs(self.differences(seed, kind, way)).mean())

    def floor(self, seed: int) -> float:
        """F."""
        losses = {number: self.loss(number) for number in self.settings.images}
        return rule.floor_of_gaps(losses, self.settings.images, seed)

    def for_rule(self, seed: int) -> rule.Seed:
        """The quantities of the decision rule."""
        gaps = {"compatible": self.gap(seed, "compatible", "image_scale")}
        for twin in TWINS:
            ways = ("image_scale", "own_scale")
            gaps[twin] = min(self.gap(seed, twin, way) for way in ways)
        through = self.of_vae[seed, "compatible"]["samples"]["image_scale"]["images"]
        own = self.of_seed[seed]
        return rule.Seed(
            gaps=gaps,
            mapped_gaps={
                twin: min(self.gap(seed, twin, way) for way in ("map", "rescaled_map"))
                for twin in TWINS
            },
            floor=self.floor(seed),
            distance=through["distance"]["frames"],
            image_distance=own["images"]["distance"]["frames"],
            distance_floor=own["floor"]["distance"]["frames"],
            rises={kind: rule.rise(self.psnr[seed, kind]) for kind in KINDS},
            reconstructions={
                kind: self.of_vae[seed, kind]["reconstruction"]["Ev-Dv"] for kind in KINDS
            },
        )

    def judged(self) -> dict[int, rule.Judged]:
        """The verdict on every seed."""
        return {seed: rule.judge(self.for_rule(seed)) for seed in self.settings.images}
