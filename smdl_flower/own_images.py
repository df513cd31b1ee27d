"""An institution's own folder of images: checked against the federation's terms, then read.

The server says which classes there are and what images look like; where the images lie is known to
the institution alone. It may have no image of some class, but none of a class that the federation
does not know. Everything that is wrong is said at once, by name, to the institution; another party
is told a code (``told``) and nothing else.
"""

import difflib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from smdl_flower.data import Images
from smdl_flower.errors import DataError
from smdl_flower.image_folder import ImageFormat, format_of, read_image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LEAST_IMAGES = 1
SHOWN = 20  # problems in one error message


@dataclass(frozen=True)
class Terms:
    """What a federation says of its images.

    Attributes:
        classes: Name of each label; a folder's sub-folders are named after them.
        format: What every image is converted to.
    """

    classes: tuple[str, ...]
    format: ImageFormat


@dataclass(frozen=True)
class Problem:
    """One thing that keeps a folder from being used.

    Attributes:
        code: What kind of thing; all that leaves the institution.
        text: What it is and what to do, for the institution.
    """

    code: str
    text: str

    def __post_init__(self) -> None:
        # A file's name is whatever somebody wrote there; no control characters reach a terminal.
        safe = "".join(c if c.isprintable() else repr(c)[1:-1] for c in self.text)
        object.__setattr__(self, "text", safe)


class OwnImagesError(DataError):
    """An institution's folder cannot be used.

    Attributes:
        told: The first problem's code.
    """

    def __init__(self, root: Path, problems: Sequence[Problem]) -> None:
        self.told = problems[0].code  # type: ignore[misc]  # an instance's own
        shown = "".join(f"\n  - {problem.text}" for problem in problems[:SHOWN])
        more = f"\n  - and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        super().__init__(
            f"{root}: these images cannot be used:{shown}{more}\n  Put that right and look again "
            "with: smdl deploy data FOLDER"
        )


@dataclass
class Inspection:
    """What was found in a folder.

    Attributes:
        root: The folder, absolute, links resolved.
        paths: Images by class, sorted.
        ignored: Files that are no images by their name.
        problems: Whatever keeps the folder from being used.
    """

    root: Path
    paths: dict[str, list[Path]] = field(default_factory=dict)
    ignored: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of images."""
        return sum(map(len, self.paths.values()))

    def require_usable(self) -> None:
        """Raise if there is any problem.

        Raises:
            OwnImagesError: With all of them.
        """
        if self.problems:
            raise OwnImagesError(self.root, self.problems)


def inspect(
    root: Path, classes: Sequence[str] | None = None, *, least: int = LEAST_IMAGES
) -> Inspection:
    """List a folder and say what is wrong with it, without decoding an image.

    Args:
        root: The folder; one sub-folder per class, images at any depth below.
        classes: Of the federation; None: any.
        least: Number of images without which the folder is of no use.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp())
        >>> (place / "nevus").mkdir()
        >>> [problem.code for problem in inspect(place, ["naevus", "melanoma"]).problems]
        ['data-classes', 'data-empty']
    """
    found = Inspection(Path(os.path.abspath(root)))
    try:
        found.root = found.root.resolve(strict=True)
        entries = sorted(os.scandir(found.root), key=lambda entry: entry.name)
    except OSError as error:
        text = f"it cannot be opened as a folder ({error.strerror}); is the path right?"
        found.problems.append(Problem("data-missing", text))
        return found
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith("."):
            name = unicodedata.normalize("NFC", entry.name)  # macOS writes accents in two ways
            found.paths.setdefault(name, []).extend(_images(found, Path(entry.path)))
        elif not entry.name.startswith("."):
            found.ignored.append(Path(entry.path))
    found.problems += _unknown(found, classes)
    found.problems += _too_few(found, least)
    return found


def unreadable(found: Inspection, as_format: ImageFormat | None = None) -> Iterator[Problem]:
    """Decode every image and yield a problem for each that cannot be."""
    for path in (path for paths in found.paths.values() for path in paths):
        try:
            read_image(path, as_format or ImageFormat(3, 8))
        except DataError as error:
            yield Problem("data-unreadable", str(error))


def load(root: Path, terms: Terms, *, least: int = LEAST_IMAGES) -> Images:
    """Return all images of an institution's folder, as the federation wants them.

    Raises:
        OwnImagesError: Something is wrong with the folder; with everything that is.
    """
    found = inspect(root, terms.classes, least=least)
    found.require_usable()
    number = {unicodedata.normalize("NFC", name): i for i, name in enumerate(terms.classes)}
    labelled = [(path, number[name]) for name, paths in found.paths.items() for path in paths]
    side = terms.format.size
    pixels = torch.empty((len(labelled), terms.format.channels, side, side), dtype=torch.uint8)
    for place, (path, _) in enumerate(labelled):
        try:
            pixels[place] = read_image(path, terms.format)
        except DataError as error:
            found.problems.append(Problem("data-unreadable", str(error)))
    found.require_usable()
    labels = torch.tensor([label for _, label in labelled], dtype=torch.int64)
    return Images(pixels, labels, terms.classes)


def load_public(root: Path, image_size: int) -> Images:
    """Return all images of the owner's folder of test images; they decide the federation's terms.

    Classes are its sub-folders, sorted; the first image tells grey from colour, and the size unless
    ``image_size`` does.

    Raises:
        OwnImagesError: Something is wrong with the folder.
        DataError: An image is too large without ``image_size``.
    """
    found = inspect(root)
    found.problems += [
        Problem("data-classes", f"sub-folder {name!r} has no image; every class needs test images")
        for name, paths in found.paths.items()
        if not paths
    ]
    found.require_usable()
    first = next(iter(found.paths.values()))[0]
    return load(root, Terms(tuple(found.paths), format_of(first, image_size)))


def terms_of(images: Images) -> Terms:
    """Return the terms that images of the owner's set."""
    return Terms(images.classes, ImageFormat(images.pixels.shape[1], images.pixels.shape[-1]))


def _images(found: Inspection, folder: Path) -> Iterator[Path]:
    """The image files below a class's folder; links that lead out of ``root`` are problems."""
    if folder.is_symlink():
        found.problems.append(_link(found, folder, "a link to a folder"))
        return
    for place, folders, names in os.walk(folder, onerror=lambda e: _closed(found, e)):
        folders.sort()
        for name in sorted(folders):
            if (Path(place) / name).is_symlink():
                found.problems.append(_link(found, Path(place) / name, "a link to a folder"))
        for name in sorted(names):
            path = Path(place) / name
            if name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                found.ignored.append(path)
            elif path.is_symlink() and not _inside(path, found.root):
                found.problems.append(_link(found, path, "a link that leads out of the folder"))
            else:
                yield path


def _inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):  # dangling, or a loop
        return False


def _link(found: Inspection, path: Path, what: str) -> Problem:
    shown = path.relative_to(found.root)
    return Problem("data-links", f"{shown}: {what}; copy or mount the images there instead")


def _closed(found: Inspection, error: OSError) -> None:
    text = f"{error.filename}: cannot be opened ({error.strerror})"
    found.problems.append(Problem("data-missing", text))


def _unknown(found: Inspection, classes: Sequence[str] | None) -> Iterator[Problem]:
    known = [unicodedata.normalize("NFC", name) for name in classes or ()]
    for name in found.paths if classes is not None else ():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "rename or remove it"
            text = (
                f"sub-folder {name!r} is no class of this federation; {hint} "
                f"(the classes are: {', '.join(known[:SHOWN])}{', ...' if known[SHOWN:] else ''})"
            )
            yield Problem("data-classes", text)


def _too_few(found: Inspection, least: int) -> Iterator[Problem]:
    if not found.count:
        text = "it holds no image; images belong into one sub-folder per class "
        yield Problem("data-empty", text + f"({', '.join(SUFFIXES)})")
    elif found.count < least:
        text = f"{found.count} images are too few; this federation asks for at least {least}"
        yield Problem("data-too-few", text)
