"""Add files outside docs/ to the site that `mkdocs.yml` describes, so that links to them work there, too."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

_ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add SECURITY.md, CHANGELOG.md and the examples; MkDocs calls this function."""
    for path in (_ROOT / "SECURITY.md", _ROOT / "CHANGELOG.md", *(_ROOT / "examples").glob("*.*")):
        name = path.relative_to(_ROOT).as_posix()
        file = File(
            f"../{name}",
            config.docs_dir,
            config.site_dir,
            config.use_directory_urls,
            dest_uri=name.replace(".md", "/index.html"),
            inclusion=InclusionLevel.INCLUDED,  # MkDocs excludes names that begin with a dot
        )
        files.append(file)
    return files
