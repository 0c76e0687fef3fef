"""Matplotlib's drawings made fit to stand inside a page: its colors, its fonts, little space."""

import io
import re
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

SERIES = 8
"""How many colors of contenders the page has; further ones begin again, dashed."""
INK, MUTED, GRID = "#010101", "#010102", "#010103"
"""Colors that stand for the page's own, which differ in light and dark."""
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"}

_NAMESPACE = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
# Matplotlib places text by the widths of its own font; its size is all that is kept.
_FONT = re.compile(r"font: (?:[a-z0-9]+ )*([\d.]+)px [^;]*")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")


def series_color(number: int) -> str:
    """What stands for the color of the contender of this number."""
    return f"#02020{number % SERIES}"


def drawing(figure: Figure, *, name: str, label: str) -> Markup:
    """A figure as an SVG element.

    Args:
        figure: drawn with the colors above only.
        name: of the drawing, unlike any other's on the page.
        label: what it shows, for those who can't see it.
    """
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    ElementTree.register_namespace("", _NAMESPACE)
    root = ElementTree.fromstring(file.getvalue())
    _clean(root, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": label}
    # HTML knows neither prefixes nor names of spaces; an svg element there needs none.
    text = ElementTree.tostring(root, encoding="unicode").replace(f' xmlns="{_NAMESPACE}"', "")
    text = _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.2f}", text)
    text = re.sub(r"\s*\n\s*", " ", text).replace("> <", "><")
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return Markup(re.sub(r"#02020(\d)", r"var(--series-\1)", text))


def _clean(root: ElementTree.Element, name: str) -> None:
    """Drop what a page doesn't need, and names that other drawings have as well."""
    for parent in list(root.iter()):
        for child in list(parent):
            tag = child.tag.removeprefix(f"{{{_NAMESPACE}}}")
            if tag in ("metadata", "style") or tag.startswith("{"):
                parent.remove(child)
    text = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text))
    for element in root.iter():
        number = element.attrib.pop("id", None)
        if number in used:
            element.set("id", f"{name}-{number}")
        elif number and number.startswith("series-"):
            element.set("class", number)
        for key, value in list(element.attrib.items()):
            value = re.sub(r"url\(#", f"url(#{name}-", value)
            element.set(key, _FONT.sub(r"font-size: \1px", value))
        if link := element.attrib.pop(_LINK, None):
            element.set("href", f"#{name}-{link.removeprefix('#')}")
