"""SVG markup of figures."""

from xml.etree import ElementTree

import pytest
from matplotlib import rcParams

from mil_toolkit.report.drawing import COLOURS, canvas, style, to_svg


def test_a_figure_uses_the_colours_of_the_page_and_shows_text_literally() -> None:
    with style():
        figure, axes = canvas()
        axes.plot([0, 1], color=COLOURS["accent"])
        axes.set_title("$x_1$ <b> & \u05d0")
        svg = to_svg(figure, "name", 'An "alternative" <text>')
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img" and root.attrib["aria-label"] == 'An "alternative" <text>'
    assert "$x_1$ <b> & \u05d0" in [each.text for each in root.iter("text")]
    assert "var(--accent)" in svg and COLOURS["accent"] not in svg
    assert not [
        each for each in root.iter() if "style" in each.attrib or each.tag in ("style", "script", "metadata")
    ]


def test_settings_of_the_user_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those in a matplotlibrc."""

    def drawn() -> str:
        with style():
            figure, axes = canvas()
            axes.plot([0, 1], label="a")
            axes.set_xlabel("x")
            axes.legend()
            return to_svg(figure, "name", "text")

    expected = drawn()
    for name, value in (("lines.linestyle", ":"), ("axes.labelpad", 40.0), ("legend.loc", "center")):
        monkeypatch.setitem(rcParams, name, value)
    assert drawn() == expected
    assert rcParams["axes.labelpad"] == 40.0
