"""Add files outside docs/ to the site that `mkdocs.yml` describes, if a page of the site links to them."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add examples, tests, SECURITY.md and so on; MkDocs calls this function."""
    linked = {
        posixpath.normpath(posixpath.join(posixpath.dirname(page.src_uri), target))
        for page in files.documentation_pages()
        for target in re.findall(r"\]\((\.\./[^)#\s]+)", page.content_string)
    }
    for path in linked:
        if path.startswith("../") and (Path(config.docs_dir) / path).is_file():
            files.append(
                File(
                    path,
                    config.docs_dir,
                    config.site_dir,
                    config.use_directory_urls,
                    dest_uri=path.removeprefix("../").replace(".md", "/index.html"),
                    inclusion=InclusionLevel.INCLUDED,  # MkDocs excludes names that begin with a dot
                )
            )
    return files
