"""A hook of mkdocs: the site also has the files of `deploy/` that pages link to."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

FOLDER = "deploy"
OUTSIDE, INSIDE = f"](../{FOLDER}/", f"]({FOLDER}/"  # as a page links to it, in the repository and on the site


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add each file of the folder, under its path in the repository."""
    root = Path(config.docs_dir).parent
    for path in sorted((root / FOLDER).rglob("*")):
        if path.is_file():
            files.append(File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001  mkdocs's names
    """Let links out of `docs/` lead to those files."""
    return markdown.replace(OUTSIDE, INSIDE)
