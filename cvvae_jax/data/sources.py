"""Folders of videos and images, and which of their files are held out of training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cvvae_jax.config import ConfigError
from cvvae_jax.data.containers import IMAGE_SUFFIXES, VIDEO_SUFFIXES

Split = Literal["train", "eval", "all"]

_HOLD_OUT_EVERY = 10


class _Folder(Sequence[Path]):
    """The paths of a folder's files, sorted: a random access source for Grain."""

    kind: str
    suffixes: tuple[str, ...]
    remedy: str

    def __init__(self, path: str | Path, *, split: Split):
        """Find the files of a folder and its subfolders.

        Args:
            path: the folder.
            split: "all" files; or, of each ten in the order of their paths, the first for "eval"
                and the others for "train". A single file is for "train".

        Raises:
            ConfigError: there is no such folder, or no file for the split in it.
        """
        files = self._find(Path(path))
        held_out = files[::_HOLD_OUT_EVERY] if len(files) > 1 else []
        match split:
            case "all":
                self._files = files
            case "train":
                self._files = [file for file in files if file not in set(held_out)]
            case "eval":
                self._files = held_out
        if not self._files:
            raise ConfigError(
                f"{path} holds a single {self.kind} file, {files[0].name}, so that none is left "
                f"unseen to evaluate on: {self.remedy}."
            )

    def _find(self, folder: Path) -> list[Path]:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a folder of {self.kind} files: no such folder.")
        files = sorted(
            file
            for file in folder.rglob("*")
            if file.suffix.lower() in self.suffixes
            and not file.name.startswith(".")
            and file.is_file()
        )
        if not files:
            raise ConfigError(
                f"{folder} holds no {self.kind} file: none ends in {', '.join(self.suffixes)}."
            )
        return files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Path:
        """The path of file `index`."""
        return self._files[index]


class VideoFolder(_Folder):
    """The videos of a folder, by their suffixes (VIDEO_SUFFIXES)."""

    kind = "video"
    suffixes = VIDEO_SUFFIXES
    remedy = "add videos, or name a folder of others with --data.eval-videos"


class ImageFolder(_Folder):
    """The images of a folder, by their suffixes (IMAGE_SUFFIXES)."""

    kind = "image"
    suffixes = IMAGE_SUFFIXES
    remedy = "add images, or name a folder of videos with --data.eval-videos"
