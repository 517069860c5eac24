"""What is kept of decoded images: pixels, their sizes, and which files cannot be read and why."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cxrbase.cores import available_cores
from cxrbase.data.canvas_part import mapped_whole
from cxrbase.errors import DecodeError
from cxrbase.whole_files import written_whole

Canvas = tuple[NDArray[np.uint8], tuple[int, int]]
ReadCanvas = Callable[[Path], Canvas]
Judge = Callable[[list[str]], None]
Put = Callable[[int, NDArray[np.uint8]], None]


@dataclass(frozen=True)
class CanvasFiles:
    """The files of one set of canvases.

    Args:
        pixels: (N, size, size) uint8 as .npy; None where pixels are not kept.
        sizes: (N, 2) int32 as .npy, the height and width that an image takes; 0 where it is not there.
        unreadable: JSON list of the damaged images, with `row`, `path` and `reason`. An image that is neither there nor
            in this list is one that the operating system could not reach, and is tried again.
        made_by: Text, the code that made these files. Written last.
        size: Side of a canvas in pixels.
        code: Hash of the code that makes canvases now.
    """

    pixels: Path | None
    sizes: Path
    unreadable: Path
    made_by: Path
    size: int
    code: str

    @property
    def there(self) -> bool:
        """Whether the images were decoded before, by the same code."""
        if not (self.sizes.is_file() and (self.pixels is None or self.pixels.is_file())):
            return False
        # Canvases of earlier versions do not tell.
        return self.made_by.is_file() and self.made_by.read_bytes() == self.code.encode()

    def make(self, paths: list[Path], read: ReadCanvas, judge: Judge) -> list[str]:
        """Decodes all images; nothing is kept where `judge` raises.

        Args:
            paths: Of the images.
            read: Gives the canvas of a file, or raises a DecodeError.
            judge: Gets what is wrong, a sentence for each image that cannot be read.

        Returns:
            What is wrong.
        """
        self.sizes.parent.mkdir(parents=True, exist_ok=True)
        taken = np.zeros((len(paths), 2), np.int32)
        shape = (len(paths), self.size, self.size)
        with nullcontext() if self.pixels is None else mapped_whole(self.pixels, shape) as pixels:
            errors = _fill(taken, paths, range(len(paths)), read, _nowhere if pixels is None else pixels.__setitem__)
            said = [str(error) for error in errors.values()]
            judge(said)
        self._write(taken, paths, {row: error.reason for row, error in errors.items() if not error.unreachable})
        with written_whole(self.made_by) as part:
            part.write_text(self.code)
        return said

    def reopen(self, paths: list[Path], read: ReadCanvas | None) -> list[str]:
        """What is wrong with images that were decoded before.

        Args:
            paths: Of the images.
            read: As of `make`, to try again what the operating system could not reach; None tries nothing.

        Returns:
            A sentence for each image that cannot be read, by row.
        """
        taken, damaged = np.load(self.sizes), self.damaged()
        away = [row for row in np.flatnonzero(taken[:, 0] == 0).tolist() if row not in damaged]
        errors = {row: DecodeError("", str(paths[row]), "it was out of reach") for row in away}
        if away and read is not None:
            errors = _fill(taken, paths, away, read, self._put)
            damaged |= {row: error.reason for row, error in errors.items() if not error.unreachable}
            if len(errors) < len(away) or not errors.keys().isdisjoint(damaged):
                self._write(taken, paths, damaged)
        errors |= {row: DecodeError("", str(paths[row]), reason) for row, reason in damaged.items()}
        return [str(error) for _, error in sorted(errors.items())]

    def _put(self, row: int, canvas: NDArray[np.uint8]) -> None:
        if self.pixels is not None:
            np.load(self.pixels, mmap_mode="r+")[row] = canvas

    def damaged(self) -> dict[int, str]:
        """Reasons by row, of images that are damaged and not only out of reach.

        There are none where the list is missing or damaged, as its images are then tried again.
        """
        try:
            return {int(entry["row"]): str(entry["reason"]) for entry in json.loads(self.unreadable.read_bytes())}
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return {}

    def _write(self, taken: NDArray[np.int32], paths: list[Path], damaged: dict[int, str]) -> None:
        entries = [{"row": row, "path": str(paths[row]), "reason": reason} for row, reason in sorted(damaged.items())]
        with written_whole(self.unreadable) as part:
            part.write_text(json.dumps(entries, indent=1) + "\n")
        with written_whole(self.sizes) as part, part.open("wb") as file:
            np.save(file, taken)


def _nowhere(row: int, canvas: NDArray[np.uint8]) -> None:
    pass


def _fill(
    taken: NDArray[np.int32], paths: list[Path], rows: range | list[int], read: ReadCanvas, put: Put
) -> dict[int, DecodeError]:
    """Puts the canvases of some rows and their sizes in place, and returns the errors by row."""
    errors: dict[int, DecodeError] = {}
    for row, result in zip(rows, _decoded([paths[row] for row in rows], read), strict=True):
        if isinstance(result, DecodeError):
            errors[row] = result
            continue
        put(row, result[0])
        taken[row] = result[1]
    return errors


def _decoded(paths: list[Path], read: ReadCanvas) -> Iterator[Canvas | DecodeError]:
    """Canvas or error of every file, in order, decoded by threads a little ahead of who asks."""

    def work(path: Path) -> Canvas | DecodeError:
        try:
            return read(path)
        except DecodeError as error:
            return error

    with ThreadPoolExecutor(available_cores()) as pool:
        bar = tqdm(total=len(paths), desc="decoding images", unit="image", mininterval=1.0, disable=len(paths) < 100)
        for start in range(0, len(paths), 256):
            for result in pool.map(work, paths[start : start + 256]):
                bar.update()
                yield result
        bar.close()
