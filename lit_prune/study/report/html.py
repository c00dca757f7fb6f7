"""The report as one HTML page, which embeds its figures and loads nothing."""

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from markdown import Markdown

if TYPE_CHECKING:
    from lit_prune.study.report.figures import Figure

# the texts of a study may be untrusted, so the content security policy forbids all scripts and requests
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ margin: 0 auto; max-width: 76rem; padding: 1rem 1.5rem 4rem; color: #222; background: #fff;
       font: 15px/1.5 system-ui, sans-serif; }}
h1, h2, h3 {{ line-height: 1.25; margin: 2.2rem 0 .6rem; }}
h1 {{ margin-top: 1rem; }}
p, li {{ max-width: 52rem; }}
nav ul {{ list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }}
a {{ color: #0072b2; }}
.table {{ overflow-x: auto; margin: 1rem 0; }}
table {{ border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .25rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top; }}
th {{ border-bottom: 2px solid #999; text-align: left; background: #fff; }}
tbody tr:hover {{ background: #f2f6fa; }}
td[style*="left"] {{ min-width: 6.5rem; }}
td[style*="right"] {{ white-space: nowrap; }}
img {{ max-width: 100%; height: auto; }}
pre {{ background: #f5f5f5; padding: .6rem .8rem; white-space: pre-wrap; }}
code {{ font: .9em ui-monospace, monospace; }}
</style>
</head>
<body>
<nav>{contents}</nav>
{body}
</body>
</html>
"""


def html_page(text: str, figures: Sequence["Figure"]) -> str:
    """Return the HTML page of a report.

    Args:
        text: The report in Markdown.
        figures: The figures that the report embeds.
    """
    converter = Markdown(
        extensions=["tables", "fenced_code", "sane_lists", "toc"],
        extension_configs={"toc": {"toc_depth": "2-2"}},
    )
    # HTML in names or sentences is shown as text, not interpreted
    converter.preprocessors.deregister("html_block")
    converter.inlinePatterns.deregister("html")
    body = converter.convert(text)
    for figure in figures:
        data = base64.b64encode(figure.path.read_bytes()).decode()
        body = body.replace(f'src="figures/{quote(figure.path.name)}"', f'src="data:image/png;base64,{data}"')
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    title = escape(text.splitlines()[0].lstrip("# ").replace("`", ""))
    return _PAGE.format(title=title, contents=converter.toc, body=body)
