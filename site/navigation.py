"""The home page is the README as GitHub shows it, and `contents.md` the order of the pages."""

from pathlib import Path

from sphinx.application import Sphinx

CONTENTS = Path(__file__).with_name("contents.md")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _add_contents)
    return {"parallel_read_safe": True}


def _add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    if page == app.config.root_doc:
        source[0] += "\n" + CONTENTS.read_text()
        app.env.note_dependency(CONTENTS)
