"""Links to files that are no pages, such as `../configs/sd3.py`, lead to pages that show them.

On GitHub such a link leads to the file. The site has a page of highlighted text for every file that
is linked, and a list of its files for every folder that is.
"""

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

_MARK = "source_path"


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_transform(_SourceLinks)
    app.connect("html-collect-pages", _pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class _SourceLinks(SphinxTransform):
    """Turns MyST's links to files and folders into links to their pages."""

    default_priority = 5  # before those that look for the target among documents and downloads

    def apply(self, **kwargs: Any) -> None:
        for kind in (addnodes.download_reference, addnodes.pending_xref):
            for node in list(self.document.findall(kind)):
                if path := self._path(node):
                    self._replace(node, path)

    def _path(self, node: nodes.Element) -> str | None:
        """The path of the linked file or folder from the root; None of all other links."""
        target = node["reftarget"]
        if node.get("reftype") != "myst" or node.get("refdomain") or target.startswith("#"):
            return None
        relative, absolute = self.env.relfn2path(target, self.env.docname)
        return Path(relative).as_posix() if Path(absolute).exists() else None

    def _replace(self, node: nodes.Element, path: str) -> None:
        uri = self.app.builder.get_relative_uri(self.env.docname, _page(path))
        link = nodes.reference("", "", *node.children, internal=True, refuri=uri)
        link[_MARK] = path
        node.replace_self(link)


def _page(path: str) -> str:
    return f"source/{path}"


def _pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    linked = {
        link[_MARK]
        for name in app.env.found_docs
        for link in app.env.get_doctree(name).findall(nodes.reference)
        if _MARK in link
    }
    folders = {path for path in linked if (app.srcdir / path).is_dir()}
    files = {path: _files(app.srcdir, path) for path in folders}
    listed = {file for each in files.values() for file in each if not _is_document(app, file)}
    for path in sorted(linked - folders | listed):
        yield _show(app, path, _highlighted(app, path))
    for path in sorted(folders):
        yield _show(app, path, _listed(app, path, files[path]))


def _files(root: Path, folder: str) -> list[str]:
    found = sorted(path for path in (root / folder).iterdir() if path.is_file())
    return [path.relative_to(root).as_posix() for path in found]


def _is_document(app: Sphinx, path: str) -> bool:
    """Whether the site has a page of its own for the file, as for a notebook."""
    return app.env.path2doc(path) in app.env.found_docs


def _show(app: Sphinx, path: str, body: str) -> tuple[str, dict[str, Any], str]:
    title = html.escape(path)
    return _page(path), {"title": title, "body": f"<h1>{title}</h1>\n{body}"}, "page.html"


def _highlighted(app: Sphinx, path: str) -> str:
    try:
        language = get_lexer_for_filename(path).aliases[0]
    except ClassNotFound:
        language = "text"
    text = (app.srcdir / path).read_text(encoding="utf-8")
    return app.builder.highlighter.highlight_block(text, language)


def _listed(app: Sphinx, folder: str, files: list[str]) -> str:
    def line(path: str) -> str:
        target = app.env.path2doc(path) if _is_document(app, path) else _page(path)
        uri = app.builder.get_relative_uri(_page(folder), target)
        return f'<li><a href="{uri}">{html.escape(Path(path).name)}</a></li>'

    return f"<ul>{''.join(map(line, files))}</ul>"
