"""What `make docs` adds to the pages here: those at the top of the repository, with their links put right.

mkdocs knows only what lies in docs/; README, ARCHITECTURE and others stay where people look for them, and join the
site as generated pages. A link to what is no page (a folder, the Compose file) becomes its text.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import normpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "ARCHITECTURE.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "benchmarks/RESULTS.md": "RESULTS.md",
}
_FROM = {name: source for source, name in PAGES.items()}
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from elsewhere in the repository."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the links of a page right: to a page of the site, else what they say."""
    del config
    name = page.file.src_uri
    folder = Path(_FROM.get(name, f"docs/{name}")).parent.as_posix()

    def link(found: re.Match[str]) -> str:
        text, target = found.groups()
        path, hash_, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return found[0]
        there = normpath(f"{folder}/{path}")
        if there == "docs/README.md":
            there = "README.md"
        known = PAGES.get(there) or there.removeprefix("docs/")
        return f"[{text}]({known}{hash_}{anchor})" if files.get_file_from_path(known) else text

    return _LINK.sub(link, markdown)
