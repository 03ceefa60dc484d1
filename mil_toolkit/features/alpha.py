"""`split_alpha` and `blend`: transparency, which becomes white, the background of a smear."""

from PIL import Image

from mil_toolkit.features.opening import Source

_EXTRA_SAMPLES = 338  # TIFF tag
_TRANSPARENT = 1  # the largest alpha of an image that nothing of could be seen; 1 if 0 to 1 was meant


def split_alpha(
    source: Source, image: Image.Image, notes: list[str]
) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours and the alpha, which is None for opaque images.

    An alpha that makes the whole image transparent is ignored, and so is a TIFF's fourth sample that no
    ExtraSamples declare to be alpha.

    source, image: the file, and its samples with 8 bits
    notes: gets a line if an alpha is ignored
    """
    if not image.has_transparency_data:
        return image, None
    stored, image = image, image.convert("LA") if image.mode == "La" else image
    alpha = image.convert("RGBA").getchannel("A")
    if image.mode == "RGBA" and source.image.format == "TIFF" and source.tag(_EXTRA_SAMPLES) is None:
        notes.append("ExtraSamples does not say what the fourth sample is; it is ignored.")
        return _colours(image), None
    if alpha.getextrema()[1] <= _TRANSPARENT:  # type: ignore[operator] # a pair of integers for one channel
        notes.append("its alpha makes every pixel transparent; the alpha is ignored.")
        return _colours(_with_colours(source, stored)), None
    return _colours(image), alpha


def _colours(image: Image.Image) -> Image.Image:
    """Return an image without its alpha."""
    return image.getchannel("L") if image.mode in ("L", "LA") else image.convert("RGBA").convert("RGB")


def _with_colours(source: Source, image: Image.Image) -> Image.Image:
    """Return the image; if its colours are lost because they are stored multiplied by alpha, as stored."""
    if image.mode == "La":
        return Image.merge("LA", image.split())
    return source.read_as(source.raw_mode.replace("RGBa", "RGBA")) if "RGBa" in source.raw_mode else image


def blend(colours: Image.Image, alpha: Image.Image) -> Image.Image:
    """Blend RGB with white."""
    layer = colours.copy()
    layer.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
