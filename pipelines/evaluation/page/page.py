"""The report page of a model: one HTML file that explains an evaluation to people, with charts and no network access.

Which sections there are and in which order is decided for each kind of label, see `kinds`. They are in `sections`, the
sentences in `words`, the charts in `charts`, the HTML in `parts` and the looks in `style`.
"""

from __future__ import annotations

from html import escape

from pipelines.errors import UserError
from pipelines.evaluation import schema
from pipelines.evaluation.page import parts, words
from pipelines.evaluation.page.kinds import KINDS
from pipelines.evaluation.page.style import SCRIPT, STYLE

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def page(evaluation: schema.Evaluation) -> str:
    """The whole file, about 5 MB: plotly's script is inside.

    Raises:
      UserError: plotly is not installed.
    """
    name = escape(f"{evaluation['task']} {evaluation['version']}")
    headline, tiles, body, terms = KINDS[evaluation["kind"]](evaluation)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<header>
<p class="kicker">{name}</p>
<h1>{parts.prose(headline)}</h1>
<p class="about">{parts.prose(words.about(evaluation))}</p>
<noscript><p class="about">Charts need JavaScript. The tables hold the same numbers.</p></noscript>
{parts.tiles(tiles)}
</header>
{body}
<footer>
{parts.terms(terms)}
<p class="made">Made by foretide, {escape(words.moment(evaluation["created"]))} UTC.</p>
</footer>
</main>
<script>{_plotly()}</script>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]
    except ImportError:
        raise UserError("the report page needs plotly: pip install foretide[train]") from None
    return str(get_plotlyjs())
