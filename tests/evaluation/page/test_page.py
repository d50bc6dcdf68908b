"""The page as a reader gets it: whole, on its own, saying what the evaluation says."""

from __future__ import annotations

import builtins
import json
import re
from copy import deepcopy
from html.parser import HTMLParser
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]
import pytest
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from pipelines.errors import UserError
from pipelines.evaluation.page.page import page
from pipelines.evaluation.schema import Evaluation
from tests.support import evaluations

VOID = {"meta", "line", "circle", "path", "rect", "br"}
MADE: dict[str, Evaluation] = {"churn": evaluations.churn(), "path": evaluations.path()}
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Reader(HTMLParser):
    """What is in a page: elements with their attributes, the text that is shown, the scripts; raises when the elements
    are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        places = {"script": self.scripts, "style": self.styles}
        places.get(self.open[-1] if self.open else "", self.words).append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words).replace("\u00a0", " ").replace("\u2212", "-"))

    @property
    def charts(self) -> list[dict[str, Any]]:
        return [json.loads(s) for s in self.scripts if s.startswith('{"data"')]


@pytest.fixture(scope="module", params=list(MADE))
def made(request: pytest.FixtureRequest) -> tuple[Evaluation, Reader]:
    evaluation = MADE[request.param]
    return evaluation, Reader(page(evaluation))


def test_the_page_asks_for_nothing(made: tuple[Evaluation, Reader]) -> None:
    """No address in an attribute or a style, and a policy that would refuse one; plotly's script is there once."""
    _, reader = made
    for _, attrs in reader.elements:
        assert not {"src", "href", "srcset", "action", "data", "poster"} & set(attrs)
    assert not re.search(r"url\(|@import|https?:", "".join(reader.styles))
    policies = [a["content"] for _, a in reader.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    assert "default-src 'none'" in str(policies[0])
    assert "http" not in str(policies[0])
    plotly = get_plotlyjs()
    assert sum(s == plotly for s in reader.scripts) == 1
    assert not [s for s in reader.scripts if s != plotly and re.search(r"https?:|//[a-z]", s)]


def test_every_section_is_there(made: tuple[Evaluation, Reader]) -> None:
    evaluation, reader = made
    topics = {
        "churn": ("Against simpler models", "Ranking", "Whom to call first", "Probabilities"),
        "path": ("Against simpler rules", "Step by step", "What a forecast looks like", "How sure it is"),
    }
    for topic in (*topics[evaluation["kind"]], "Over time", "What it looks at", "Has the world moved?"):
        assert topic in reader.text
    assert len(reader.charts) == {"churn": 10, "path": 11}[evaluation["kind"]]


def test_charts_are_what_plotly_knows(made: tuple[Evaluation, Reader]) -> None:
    """Plotly's own check of names and values of every attribute."""
    for chart in made[1].charts:
        assert go.Figure(chart).to_plotly_json()["layout"]["showlegend"] is False


def test_charts_are_spoken_and_keep_their_place(made: tuple[Evaluation, Reader]) -> None:
    reader = made[1]
    boxes = [a for _, a in reader.elements if a.get("class") == "chart"]
    assert len(boxes) == len(reader.charts)
    for box, chart in zip(boxes, reader.charts, strict=True):
        assert box["role"] == "img"
        assert len(str(box["aria-label"])) > 10
        assert box["style"] == f"height:{chart['layout']['height']}px"


def test_the_words_of_churn_are_the_numbers() -> None:
    evaluation = evaluations.churn()
    network, first = evaluation["models"][0], evaluation["models"][0]["lift"][0]
    network |= {"auc": 0.8354, "auc_low": 0.8101, "auc_high": 0.8589}
    first |= {"captured": 0.4123, "lift": 4.123}
    evaluation["models"][1]["minus_network"] = {"auc": -0.0123, "low": -0.0204, "high": -0.0042}
    evaluation["test"] = {"as_ofs": ["2017-12-04"], "entities": 1016, "share": 0.2303}
    text = Reader(page(evaluation)).text
    assert (
        "Of the 1,016 entities active as of 2017-12-04, 23 % fell silent in the next 28 days. The tenth the model "
        "trusts least holds 41 % of them, 4.1 times as many as chance."
    ) in text
    assert "AUC0.83595 %: 0.810 to 0.859" in text.replace(" AUC", "AUC")
    assert "Against LightGBM on aggregates+0.01295 %: +0.004 to +0.020" in text
    assert "-0.012-0.020 to -0.004" in text
    assert "tells which is which 84 times in 100" in text
    for row in evaluation["by_as_of"]:
        assert f"{row['as_of']}{row['set']}{row['entities']:,}" in text


def test_the_words_of_a_path_are_the_numbers() -> None:
    evaluation = evaluations.path()
    evaluation["models"][0] |= {"skill": 0.0312, "low": 0.0101, "high": 0.0522}
    evaluation["coverage"] = [{"step": 1, "nominal": 0.8, "actual": 0.712}, {"step": 2, "nominal": 0.8, "actual": 0.7}]
    text = Reader(page(evaluation)).text
    assert "Over the next 7 days, the forecast is 3.1 % closer to the outcome than the last level." in text
    assert "95 %: 1.0 to 5.2 %" in text
    assert "The band is too narrow: it held 70.6 % of the outcomes, for 80 % promised." in text
    last = evaluation["models"][1]["by_step"][-1]["error"]
    assert f"{last:.2f} % for naive last value" in text


def test_what_cannot_be_told_is_left_out() -> None:
    """One kind of entity at an as-of, levels that never moved, too few as-ofs for an interval."""
    evaluation = evaluations.path()
    for model in evaluation["models"]:
        model |= {"skill": None, "low": None, "high": None}
        for step in model["by_step"]:
            step |= {"skill": None, "low": None, "high": None}
    evaluation["by_as_of"][0]["skill"] = None
    reader = Reader(page(evaluation))
    assert "made for levels that never moved" in reader.text
    assert "None" not in reader.text
    assert "nan" not in reader.text.lower().split()
    text = Reader(page(evaluations.churn())).text
    assert "2017-02-02train91222" not in text
    assert "2017-02-02train912" in text


def test_without_calibration_there_is_one_chart() -> None:
    evaluation = evaluations.churn(method="none")
    reader = Reader(page(evaluation))
    assert len(reader.charts) == 9
    assert "As the network gives them" in reader.text


@pytest.mark.parametrize("kind", list(MADE))
def test_names_from_data_are_only_text(kind: str) -> None:
    evaluation: Any = deepcopy(MADE[kind])
    evaluation |= {"task": EVIL, "version": EVIL, "description": EVIL, "created": EVIL}
    for row in (*evaluation["importance"], *evaluation["drift"]["features"]):
        row["feature"] = EVIL + row["feature"]
    for row in (*evaluation["models"], *evaluation.get("fan", [])):
        row["name" if "name" in row else "entity"] = EVIL
    evaluation.get("calibration", {})["method"] = EVIL
    reader = Reader(page(evaluation))
    assert not [tag for tag, _ in reader.elements if tag == "img"]
    assert [tag for tag, _ in reader.elements].count("script") == len(reader.charts) + 2
    assert not [key for _, attrs in reader.elements for key in attrs if key.startswith("on")]
    assert "alert(1)" in reader.text
    for chart in reader.charts:
        for label in _labels(chart):
            assert "<img" not in label


def test_a_model_of_medians_has_no_band() -> None:
    evaluation = evaluations.path()
    for row in evaluation["coverage"]:
        row |= {"nominal": 0.0, "actual": 0.0}
    for fan in evaluation["fan"]:
        fan["quantiles"] = {"0.5": fan["quantiles"]["0.5"]}
    reader = Reader(page(evaluation))
    assert "How sure it is" not in reader.text
    assert "% band" not in reader.text


def test_an_install_without_plotly_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("plotly"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install foretide\[train\]"):
        page(evaluations.churn())


def _labels(value: Any) -> list[str]:
    """Every text inside a figure."""
    if isinstance(value, dict):
        return [label for v in value.values() for label in _labels(v)]
    if isinstance(value, list):
        return [label for v in value for label in _labels(v)]
    return [value] if isinstance(value, str) else []
