"""How the report page looks: its colours, style sheet and script. One accent on ink and greys, light and dark.

The page loads nothing: fonts are those of the system, and a Content-Security-Policy forbids every request.
"""

from __future__ import annotations

import json

FONT = 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Inter, Roboto, "Helvetica Neue", Arial, sans-serif'

# Light colours. Charts name these; the script puts the dark ones in their place.
INK, MUTED, RULE, PAPER = "#17202a", "#5c6875", "#e6eaee", "#ffffff"
ACCENT, BAND, WASH = "#0a6a8f", "rgba(10,106,143,0.17)", "#f5f8fa"
DARK_GREY, GREY, PALE = "#46515d", "#8793a0", "#b9c2cb"

NIGHT = {
    INK: "#e9eef3",
    MUTED: "#9aa6b3",
    RULE: "#27313b",
    PAPER: "#11171d",
    ACCENT: "#53bbe0",
    BAND: "rgba(83,187,224,0.22)",
    WASH: "#171f27",
    DARK_GREY: "#c3ccd5",
    GREY: "#8b97a4",
    PALE: "#5a6673",
}

COLOURS = {
    "ink": INK,
    "muted": MUTED,
    "rule": RULE,
    "paper": PAPER,
    "accent": ACCENT,
    "band": BAND,
    "wash": WASH,
    "dark-grey": DARK_GREY,
    "grey": GREY,
    "pale": PALE,
}
_DAY = "".join(f"--{name}:{colour};" for name, colour in COLOURS.items())
_DARK = "".join(f"--{name}:{NIGHT[colour]};" for name, colour in COLOURS.items())

STYLE = f"""
:root {{ color-scheme: light dark; {_DAY} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
* {{ box-sizing: border-box; }}
html {{ -webkit-text-size-adjust: 100%; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 {FONT};
  font-variant-numeric: tabular-nums; -webkit-font-smoothing: antialiased; }}
main {{ max-width: 1088px; margin: 0 auto; padding: 72px 32px 64px; }}
h1, h2, h3, p, figure, ul, dl, dd {{ margin: 0; padding: 0; }}
.kicker {{ color: var(--accent); font-size: 14px; font-weight: 600; }}
h1 {{ max-width: 860px; margin: 14px 0 20px; font-size: 33px; line-height: 1.26; font-weight: 600;
  letter-spacing: -0.017em; text-wrap: pretty; }}
h2 {{ max-width: 760px; margin: 6px 0 0; font-size: 22px; line-height: 1.34; font-weight: 600;
  letter-spacing: -0.011em; text-wrap: balance; }}
h3 {{ font-size: 15px; line-height: 1.4; font-weight: 600; }}
.whole {{ white-space: nowrap; }}
.about {{ text-wrap: pretty; max-width: 760px; color: var(--muted); }}
.tiles {{ display: grid; grid-template-columns: repeat(4, 1fr); gap: 0 32px; margin: 48px 0 0; }}
.tiles > div {{ border-top: 2px solid var(--ink); padding-top: 14px; display: grid;
  grid-template-rows: subgrid; grid-row: span 3; }}
.tiles > div:first-child {{ border-color: var(--accent); }}
.tiles dt {{ font-size: 14px; color: var(--muted); }}
.tiles .value {{ font-size: 34px; line-height: 1.3; font-weight: 600; letter-spacing: -0.02em; }}
.tiles > div:first-child .value {{ color: var(--accent); }}
.tiles .note {{ font-size: 13px; line-height: 1.45; color: var(--muted); text-wrap: balance; }}
section {{ margin-top: 88px; }}
.pair {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 48px 56px; margin-top: 32px; }}
.wide {{ margin-top: 32px; }}
figure {{ min-width: 0; display: flex; flex-direction: column; }}
figcaption, .reading {{ max-width: 680px; margin-top: 10px; color: var(--muted); font-size: 14px; line-height: 1.5; }}
.legend {{ display: flex; flex-wrap: wrap; gap: 6px 24px; margin-top: 20px; list-style: none; font-size: 14px;
  color: var(--muted); }}
.legend li {{ display: flex; align-items: center; gap: 8px; }}
.legend li:first-child {{ color: var(--ink); }}
.scroll {{ overflow-x: auto; margin-top: 28px; }}
table {{ border-collapse: collapse; width: 100%; font-size: 15px; }}
th, td {{ padding: 11px 0 11px 20px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--rule); }}
th:first-child, td:first-child {{ padding-left: 0; text-align: left; }}
thead th {{ padding-top: 0; font-size: 13px; font-weight: 400; white-space: normal; color: var(--muted);
  vertical-align: bottom; }}
tbody th {{ font-weight: 400; }}
tr.ours {{ color: var(--accent); }}
tr.ours th, tr.ours td {{ font-weight: 600; }}
td small {{ font-size: 13px; font-weight: 400; color: var(--muted); }}
table svg {{ display: block; margin-left: auto; }}
details {{ margin-top: 14px; font-size: 14px; }}
summary {{ color: var(--muted); cursor: pointer; width: fit-content; }}
summary:hover {{ color: var(--ink); }}
summary:focus-visible {{ outline: 2px solid var(--accent); outline-offset: 3px; border-radius: 2px; }}
details table {{ width: auto; min-width: min(100%, 420px); font-size: 13px; }}
details .scroll {{ margin-top: 12px; max-height: 380px; overflow-y: auto; }}
details th, details td {{ padding-top: 5px; padding-bottom: 5px; }}
footer {{ margin-top: 96px; padding-top: 28px; border-top: 1px solid var(--rule); color: var(--muted);
  font-size: 14px; }}
.terms {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 20px 56px; }}
.terms dt {{ color: var(--ink); font-weight: 600; }}
.made {{ margin-top: 32px; }}
@media screen and (max-width: 800px) {{
  main {{ padding: 40px 20px 48px; }}
  h1 {{ font-size: 26px; }}
  h2 {{ font-size: 20px; }}
  section {{ margin-top: 64px; }}
  .tiles {{ grid-template-columns: repeat(2, 1fr); gap: 0 24px; }}
  .tiles .note {{ padding-bottom: 28px; }}
  .pair, .terms {{ grid-template-columns: minmax(0, 1fr); }}
  th, td {{ padding-left: 16px; }}
  table svg {{ width: 84px; }}
}}
@media print {{
  @page {{ size: A4; margin: 16mm 15mm; }}
  body {{ font-size: 13px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
  main {{ max-width: none; padding: 0; }}
  h1 {{ font-size: 24px; }}
  h2 {{ font-size: 17px; break-after: avoid; }}
  section {{ margin-top: 44px; break-inside: avoid; }}
  footer {{ margin-top: 44px; break-inside: avoid; }}
  figcaption, .reading, .legend, .tiles dt, .tiles .note, footer {{ font-size: 11px; }}
  .tiles {{ grid-template-columns: repeat(4, 1fr); gap: 0 20px; margin-top: 28px; }}
  .tiles .value {{ font-size: 24px; }}
  .pair {{ grid-template-columns: repeat(2, 320px); gap: 28px 24px; }}
  table, td small, thead th {{ font-size: 10.5px; }}
  th, td {{ padding: 6px 0 6px 10px; }}
  table svg {{ width: 76px; }}
  figure, tr, .tiles {{ break-inside: avoid; }}
  details, noscript {{ display: none; }}
}}
"""

# Charts are redrawn when the scheme changes, and by day colours at a width of the paper for the time of a print.
SCRIPT = f"""
(() => {{
  const night = new Map(Object.entries({json.dumps(NIGHT)}));
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const boxes = [...document.querySelectorAll(".chart")];
  const draw = (dark, print) => boxes.forEach((box) => {{
    const figure = JSON.parse(box.nextElementSibling.textContent,
      (key, value) => (dark && typeof value === "string" && night.get(value)) || value);
    const height = print ? 0.8 * figure.layout.height : figure.layout.height;
    if (print) Object.assign(figure.layout, {{autosize: false, width: box.closest(".pair") ? 320 : 664}});
    figure.layout.height = height;
    box.style.height = `${{height}}px`;
    Plotly.react(box, figure.data, figure.layout, {{displayModeBar: false, responsive: !print, doubleClick: false}});
  }});
  draw(scheme.matches, false);
  scheme.addEventListener("change", () => draw(scheme.matches, false));
  addEventListener("beforeprint", () => draw(false, true));
  addEventListener("afterprint", () => draw(scheme.matches, false));
}})();
"""
