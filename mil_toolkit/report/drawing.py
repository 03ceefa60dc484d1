"""Matplotlib figures as SVG markup that fits the page: its colours, no scripts, no styles, unique ids."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Elements in one of these colours take the page's CSS variable of that name, which differs in light and dark
# mode.
COLOURS = {
    "ink": "#211d26",
    "muted": "#6b6573",
    "rule": "#d9d5de",
    "paper": "#fffefc",
    "accent": "#5b3a8e",
    "positive": "#b5432d",
    "negative": "#2c6a96",
    "band": "#a58fc7",
}
_NAMES = {value: name for name, value in COLOURS.items()}
WIDE = 4  # inches; a wider figure may fill a whole column of two
LOG_RATIO = 10  # of the largest to the smallest value; above it a logarithmic axis is clearer
FONT_SIZE = 9  # points; the page scales figures by 1 to 1.5
_KEPT = re.compile(
    r"fill|stroke|stroke-(width|dasharray|dashoffset|linecap|linejoin|opacity)|fill-opacity|opacity"
)
_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Set the look of all figures, whatever the user's matplotlibrc says.

    Text is shown literally, never as mathematics.
    """
    ink, muted, rule = (COLOURS[name] for name in ("ink", "muted", "rule"))
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "mil_toolkit",
        "text.parse_math": False,
        "axes.unicode_minus": True,
        "axes.formatter.use_mathtext": False,
        "font.family": "DejaVu Sans",
        "font.size": FONT_SIZE,
        "axes.titlesize": FONT_SIZE,
        "axes.labelsize": FONT_SIZE,
        "xtick.labelsize": FONT_SIZE - 0.5,
        "ytick.labelsize": FONT_SIZE - 0.5,
        "legend.fontsize": FONT_SIZE - 0.5,
        "legend.frameon": False,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": muted,
        "axes.facecolor": "none",
        "axes.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "xtick.color": muted,
        "ytick.color": muted,
        "grid.color": rule,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.5,
        "lines.solid_capstyle": "round",
    }
    with rc_context(), warnings.catch_warnings():
        rcdefaults()
        rcParams.update(settings)
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the page's fonts draw the text
        yield


def canvas(
    width: float = 3.7, height: float = 2.7, left: float = 0.55, bottom: float = 0.48, top: float = 0.12
) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes; sizes and margins in inches."""
    figure = Figure(figsize=(width, height), facecolor="none")
    FigureCanvasSVG(figure)
    axes = figure.add_axes(
        (left / width, bottom / height, 1 - (left + 0.12) / width, 1 - (bottom + top) / height)
    )
    axes.set_axisbelow(True)
    return figure, axes


def to_svg(figure: Figure, name: str, alternative: str) -> Markup:
    """Return the figure as an SVG element.

    name: unique in the page, prefix of all ids in the element; alternative: text for readers who do not see
    it
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in root.iter():
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    _plain_ids(root, name)
    for element in root.iter():
        _plain(element)
    for attribute in ("width", "height", "version"):
        del root.attrib[attribute]
    size = "chart wide" if figure.get_figwidth() > WIDE else "chart"
    root.attrib |= {"class": size, "role": "img", "aria-label": alternative}
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _plain_ids(root: ElementTree.Element, name: str) -> None:
    """Rename the ids that are referred to as `name-1`, `name-2`, ...; remove all others."""
    names: dict[str, str] = {}
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == _LINK or "url(#" in value:
                target = value.partition("#")[2].partition(")")[0]
                names.setdefault(target, f"{name}-{len(names) + 1}")
                element.attrib[key] = value.replace(f"#{target}", f"#{names[target]}")
    for element in root.iter():
        own = element.attrib.pop("id", "")
        if own in names:
            element.attrib["id"] = names[own]


def _plain(element: ElementTree.Element) -> None:
    """Remove namespaces, turn styles, which the policy forbids, into attributes, and round numbers."""
    element.tag = element.tag.removeprefix(_SVG)
    if _LINK in element.attrib:
        element.attrib["href"] = element.attrib.pop(_LINK)
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key in ("font", "font-size"):
            element.attrib["font-size"] = re.search(r"[\d.]+(?=px)", value)[0]  # type: ignore[index]
            if re.search(r"\bbold\b|\b[67]00\b", value):
                element.attrib["font-weight"] = "600"
        elif key == "text-anchor" or _KEPT.fullmatch(key):
            element.attrib[key] = f"var(--{_NAMES[value]})" if value in _NAMES else value
    for key in ("d", "x", "y", "transform", "width", "height"):
        if key in element.attrib:
            element.attrib[key] = re.sub(r"(\.\d\d)\d+", r"\1", element.attrib[key]).replace("\n", "")
    element.tail = None


INK, MUTED, RULE, ACCENT, BAND = (COLOURS[name] for name in ("ink", "muted", "rule", "accent", "band"))


@dataclass(frozen=True)
class Chart:
    """A figure with heading and caption; a tall one spans two rows of the page's grid."""

    svg: Markup
    title: str
    caption: str
    tall: bool = False


def plain_logarithm(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 times powers of ten, in plain numbers."""
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters, with an ellipsis at its end if it was cut."""
    return text if len(text) <= most else text[: most - 1] + "…"


def without_middle(text: str, most: int) -> str:
    """Return a text without its middle if it is long; names of features differ at their ends."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"
