"""The photographs that come with vtprune. `images/README.md` names their authors and licences."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files

from PIL import Image

_IMAGES = files("vtprune.testbed") / "images"


def photos() -> list[str]:
    """Names that `photo` accepts, sorted."""
    return sorted(entry.name.removesuffix(".jpg") for entry in _IMAGES.iterdir() if entry.name.endswith(".jpg"))


def photo(name: str = "chelsea") -> Image.Image:
    """One photograph, square, RGB, 300 to 448 pixels a side. The caller owns the returned copy.

    Raises:
        ValueError: if there is no photograph of that name.
    """
    names = photos()
    if name not in names:
        near = get_close_matches(name, names, n=1)
        hint = f", and the nearest is {near[0]!r}" if near else ""
        raise ValueError(
            f"there is no photograph {name!r}: expected one of {', '.join(names)}{hint}. "
            "For a picture of your own, use PIL.Image.open(path)"
        )
    with (_IMAGES / f"{name}.jpg").open("rb") as file:
        return Image.open(file).convert("RGB")
