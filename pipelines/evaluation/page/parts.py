"""The parts that a report page is put together from. Every text is escaped here, so callers pass plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from html import escape

from pipelines.evaluation.page.charts import BASELINES, Figure

WHISKER = (168, 18)  # width and height, px
DASHES = {"dash": "7 4", "dot": "1.5 3.5", "dashdot": "8 3 2 3"}

Content = tuple[str, Sequence[tuple[str, str, str]], str, Sequence[tuple[str, str]]]  # headline, tiles, sections, terms


def section(topic: str, finding: str, *parts: str) -> str:
    """A finding in words, under its topic, and what shows it."""
    head = f'<p class="kicker">{escape(topic)}</p>\n<h2>{prose(finding)}</h2>'
    return "\n".join(["<section>", head, *parts, "</section>"])


def prose(text: str) -> str:
    """Text in which no date or as-of breaks at the end of a line."""
    return re.sub(r"\d{4}-\d\d-\d\d|\bas-ofs?\b", r'<span class="whole">\g<0></span>', escape(text))


def pair(*figures: str) -> str:
    """Figures side by side where there is room."""
    return "\n".join(['<div class="pair">', *figures, "</div>"])


def wide(figure: str) -> str:
    return f'<div class="wide">\n{figure}\n</div>'


def chart(title: str, drawing: Figure, reading: str, spoken: str) -> str:
    """A chart with its title, how to read it, and what a screen reader says of it. The height is fixed beforehand."""
    height, label = drawing["layout"]["height"], escape(f"{title}. {spoken}".strip())
    data = json.dumps(drawing, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":  # a script ends at the first "</script"
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    return (
        f"<figure>\n<h3>{escape(title)}</h3>\n"
        f'<div class="chart" style="height:{height}px" role="img" aria-label="{label}"></div>\n'
        f'<script type="application/json">{data}</script>\n'
        f"<figcaption>{escape(reading)}</figcaption>\n</figure>"
    )


def reading(text: str) -> str:
    return f'<p class="reading">{escape(text)}</p>'


def tiles(rows: Sequence[tuple[str, str, str]]) -> str:
    """Key figures: what, how much, and beside what to see it."""
    cells = (
        f'<div><dt>{escape(what)}</dt><dd class="value">{escape(value)}</dd><dd class="note">{prose(note)}</dd></div>'
        for what, value, note in rows
    )
    return "\n".join(['<dl class="tiles">', *cells, "</dl>"])


def terms(rows: Sequence[tuple[str, str]]) -> str:
    """Words and what they mean."""
    cells = (f"<div><dt>{escape(word)}</dt><dd>{escape(meaning)}</dd></div>" for word, meaning in rows)
    return "\n".join(['<dl class="terms">', *cells, "</dl>"])


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], ours: int | None = None) -> str:
    """Cells are HTML: text goes through `cell`. The row `ours` is set off."""
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    lines = [
        f'<tr{" class=ours" if i == ours else ""}><th scope="row">{row[0]}</th>'
        + "".join(f"<td>{c}</td>" for c in row[1:])
        + "</tr>"
        for i, row in enumerate(rows)
    ]
    body = "\n".join(lines)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def numbers(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The numbers behind charts, folded away."""
    body = table(heads, [[escape(c) for c in row] for row in rows])
    return f"<details><summary>The numbers</summary>\n{body}\n</details>"


def cell(text: str, range: str = "") -> str:
    """A number, and its interval under it."""
    return escape(text) + (f"<br><small>{escape(range)}</small>" if range else "")


def whisker(ends: tuple[float, float, float], bounds: tuple[float, float], ours: bool) -> str:
    """A point between the ends of its interval, (low, value, high), on the scale of its column; an arrow where that
    lies below the scale."""
    width, height = WHISKER
    scale = (width - 12) / ((bounds[1] - bounds[0]) or 1)
    left, at, right = (round(6 + scale * (max(x, bounds[0]) - bounds[0]), 1) for x in ends)
    colour, middle = f"var(--{'accent' if ours else 'dark-grey'})", height // 2
    if ends[1] < bounds[0]:
        mark = f'<path d="M8 {middle - 4}v8l-7-4Z" stroke="none"/>'
    else:
        mark = (
            f'<line x1="{left}" x2="{right}" y1="{middle}" y2="{middle}" stroke-width="2"/>'
            f'<circle cx="{at}" cy="{middle}" r="4.5" stroke="none"/>'
        )
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    opening = f'<svg {size} aria-hidden="true" stroke="{colour}" fill="{colour}">'
    return f"{opening}{mark}</svg>"


def legend(names: Sequence[str]) -> str:
    """The legend of lines: the network and baselines, in the styles of the charts."""
    styles = [("accent", "solid"), *BASELINES]
    return keys([(stroke(*style), name) for style, name in zip(styles, names, strict=False)])


def keys(rows: Iterable[tuple[str, str]]) -> str:
    """A legend out of marks, which are HTML, and names."""
    items = (f"<li>{mark}{escape(name)}</li>" for mark, name in rows)
    return "\n".join(['<ul class="legend">', *items, "</ul>"])


def stroke(colour: str, dash: str = "solid") -> str:
    """A piece of line, for a legend; `colour` is a name of the style sheet."""
    dashes = f' stroke-dasharray="{DASHES[dash]}"' if dash != "solid" else ""
    line = f'<line x1="0" x2="28" y1="6" y2="6" stroke="var(--{colour})" stroke-width="2.4"{dashes}/>'
    return f'<svg width="28" height="12" aria-hidden="true">{line}</svg>'


def area(colour: str) -> str:
    """A piece of area, for a legend."""
    return f'<svg width="28" height="12" aria-hidden="true"><rect width="28" height="12" fill="var(--{colour})"/></svg>'


def dot(colour: str, fill: str, diamond: bool = False) -> str:
    """A point, for a legend."""
    shape = '<path d="M7 1.5 12.5 7 7 12.5 1.5 7Z"' if diamond else '<circle cx="7" cy="7" r="4.5"'
    style = f'stroke="var(--{colour})" stroke-width="1.6" fill="var(--{fill})"/>'
    return f'<svg width="14" height="14" aria-hidden="true">{shape} {style}</svg>'
