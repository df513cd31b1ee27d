"""An institution's folder: used whole, or refused with everything that is wrong, by name."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from smdl_flower import own_images
from smdl_flower.errors import DataError
from smdl_flower.image_folder import ImageFormat
from smdl_flower.own_images import OwnImagesError, Terms

TERMS = Terms(("cat", "dog", "ewe"), ImageFormat(channels=1, size=6))


def save(path: Path, value: int = 3, mode: str = "L", size: tuple[int, int] = (6, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, value, value)).save(path)
    return path


def folder(root: Path, counts: dict[str, int]) -> Path:
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for number in range(count):
            save(root / label / f"{number}.png", 10 * number)
    return root


def codes(root: Path, classes=TERMS.classes, **kwargs) -> list[str]:
    return [problem.code for problem in own_images.inspect(root, classes, **kwargs).problems]


def test_the_whole_folder_is_used_with_the_federations_labels(tmp_path):
    root = folder(tmp_path / "images", {"ewe": 2, "cat": 3})
    images = own_images.load(root, TERMS)
    assert images.classes == TERMS.classes
    assert images.labels.tolist() == [0, 0, 0, 2, 2]
    assert images.pixels.shape == (5, 1, 6, 6)
    assert images.pixels[:, 0, 0, 0].tolist() == [0, 10, 20, 0, 10]


def test_images_are_brought_to_the_federations_format(tmp_path):
    root = tmp_path / "images"
    save(root / "cat" / "wide.png", 7, "RGB", (20, 9))
    save(root / "dog" / "deeper" / "grey.tif", 9)
    colour = own_images.load(root, Terms(TERMS.classes, ImageFormat(3, 12)))
    assert colour.pixels.shape == (2, 3, 12, 12)
    assert own_images.load(root, TERMS).pixels.unique().tolist() == [7, 9]


def test_a_class_may_be_missing_and_an_empty_sub_folder_too(tmp_path):
    root = folder(tmp_path / "images", {"dog": 1, "ewe": 0})
    assert codes(root) == []
    assert own_images.load(root, TERMS).labels.tolist() == [1]


def test_an_unknown_class_is_refused_with_the_nearest_known_one(tmp_path):
    root = folder(tmp_path / "images", {"cat": 1, "Dog": 1})
    with pytest.raises(OwnImagesError, match=r"'Dog' is no class .*did you mean 'dog'") as caught:
        own_images.load(root, TERMS)
    assert caught.value.told == "data-classes"
    assert "smdl deploy data" in str(caught.value)


def test_accents_written_in_two_ways_are_one_class(tmp_path):
    composed, split = (unicodedata.normalize(form, "nævus café") for form in ("NFC", "NFD"))
    assert composed != split
    root = folder(tmp_path / "images", {split: 2})
    images = own_images.load(root, Terms((composed,), TERMS.format))
    assert images.labels.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("what", "code"), [("absent", "data-missing"), ("file", "data-missing"), ("bare", "data-empty")]
)
def test_no_folder_and_an_empty_one_are_refused(tmp_path, what, code):
    root = tmp_path / "images"
    if what == "file":
        root.write_text("x")
    elif what == "bare":
        root.mkdir()
    with pytest.raises(OwnImagesError) as caught:
        own_images.load(root, TERMS)
    assert caught.value.told == code


def test_a_closed_class_folder_is_refused(tmp_path, monkeypatch):
    root = folder(tmp_path / "images", {"cat": 1, "dog": 1})
    walk = os.walk

    def closed(place, onerror):  # root, who may run the tests, opens everything
        if Path(place).name == "cat":
            onerror(PermissionError(13, "Permission denied", str(place)))
            return iter(())
        return walk(place)

    monkeypatch.setattr(os, "walk", closed)
    with pytest.raises(OwnImagesError, match=r"cat: cannot be opened \(Permission denied"):
        own_images.load(root, TERMS)


def test_too_few_images_are_refused(tmp_path):
    root = folder(tmp_path / "images", {"cat": 4})
    assert codes(root, least=5) == ["data-too-few"]
    assert codes(root, least=4) == []


def test_every_unreadable_image_is_named(tmp_path):
    root = folder(tmp_path / "images", {"cat": 3})
    (root / "cat" / "0.png").write_bytes(b"no image")
    (root / "cat" / "2.png").write_bytes(b"")
    with pytest.raises(OwnImagesError, match=r"(?s)cat/0\.png.*cat/2\.png") as caught:
        own_images.load(root, TERMS)
    assert caught.value.told == "data-unreadable"
    assert len(list(own_images.unreadable(own_images.inspect(root)))) == 2


def test_of_many_problems_twenty_are_shown(tmp_path):
    root = folder(tmp_path / "images", {f"class-{i}": 1 for i in range(30)})
    with pytest.raises(OwnImagesError, match="and 10 more"):
        own_images.load(root, TERMS)


def test_a_file_in_the_disguise_of_an_image_is_not_given_to_another_program(tmp_path):
    """Pillow recognises formats by content, and hands PostScript to Ghostscript."""
    root = tmp_path / "images"
    (root / "cat").mkdir(parents=True)
    header = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 6\n%%EndComments\n"
    (root / "cat" / "x.png").write_bytes(header)
    with Image.open(root / "cat" / "x.png") as control:
        assert control.format == "EPS"
    with pytest.raises(OwnImagesError, match=r"x\.png: not a readable image"):
        own_images.load(root, TERMS)


@pytest.mark.parametrize("limit", [1000, 6000])  # beyond twice the limit, and Pillow's warning only
def test_an_image_that_unpacks_into_far_more_than_it_is_is_refused(tmp_path, monkeypatch, limit):
    root = tmp_path / "images"
    save(root / "cat" / "bomb.png", size=(90, 90))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(OwnImagesError, match=r"bomb\.png: .*decompression bomb"):
        own_images.load(root, TERMS)


def test_a_pipe_is_not_waited_for(tmp_path):
    root = folder(tmp_path / "images", {"cat": 1})
    os.mkfifo(root / "cat" / "pipe.png")
    with pytest.raises(OwnImagesError, match=r"pipe\.png"):
        own_images.load(root, TERMS)


def test_links_that_lead_out_are_refused_and_others_are_not(tmp_path):
    outside = save(tmp_path / "elsewhere" / "patient.png")
    root = folder(tmp_path / "images", {"cat": 1, "dog": 0})
    (root / "dog" / "inside.png").symlink_to(root / "cat" / "0.png")
    assert codes(root) == []
    (root / "dog" / "out.png").symlink_to(outside)
    (root / "dog" / "dangling.png").symlink_to(tmp_path / "nowhere")
    (root / "dog" / "loop.png").symlink_to(root / "dog" / "loop.png")
    (root / "dog" / "folder").symlink_to(outside.parent)
    (root / "ewe").symlink_to(outside.parent)
    assert codes(root) == ["data-links"] * 5
    with pytest.raises(OwnImagesError, match="leads out of the folder"):
        own_images.load(root, TERMS)


def test_a_folder_reached_by_a_link_is_that_folder(tmp_path):
    root = folder(tmp_path / "images", {"cat": 1})
    (tmp_path / "link").symlink_to(root)
    assert codes(tmp_path / "link") == []


def test_other_files_are_counted_and_not_read(tmp_path):
    root = folder(tmp_path / "images", {"cat": 1})
    (root / "notes.txt").write_text("x")
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / ".cache").mkdir()
    found = own_images.inspect(root, TERMS.classes)
    assert [path.name for path in found.ignored] == ["Thumbs.db", "notes.txt"]
    assert found.problems == []


def test_a_files_name_cannot_write_to_the_terminal(tmp_path):
    root = tmp_path / "images"
    (root / "cat").mkdir(parents=True)
    (root / "cat" / "x\x1b[2J.png").write_bytes(b"x")
    with pytest.raises(OwnImagesError) as caught:
        own_images.load(root, TERMS)
    assert "\x1b" not in str(caught.value)


def test_the_owners_test_images_set_the_terms(tmp_path):
    root = tmp_path / "test"
    save(root / "ewe" / "0.png", 5, "RGB", (9, 7))
    save(root / "cat" / "0.png", 5, "RGB", (9, 9))
    images = own_images.load_public(root, 0)
    assert own_images.terms_of(images) == Terms(("cat", "ewe"), ImageFormat(3, 9))
    assert own_images.terms_of(own_images.load_public(root, 4)).format.size == 4
    (root / "dog").mkdir()
    with pytest.raises(DataError, match="'dog' has no image"):
        own_images.load_public(root, 0)
