"""Task files: what loads, and one line with the place and the remedy for everything that does not."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from docs.generated import task_schema
from pipelines.errors import UserError
from pipelines.task.faults import EXAMPLES, one_of
from pipelines.task.file import LARGEST, SHOWN, describe, load_task
from pipelines.task.labels.churn import ChurnLabel
from pipelines.task.labels.kinds import KINDS as LABELS
from pipelines.task.labels.path import PathLabel
from pipelines.task.spec import Task

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "templates" / "tasks").glob("*.yaml"))

GOOD = """\
task: churn_shop
events:
  entity: user_id
  time: {field: ts, unit: s}
  identity: [event_id]
  where: {bot: false}
  categories:
    type: [a, b]
sequence:
  step: 1d
  steps: 30
  features:
    - {agg: count}
    - {agg: sum, field: amount}
    - {agg: count, by: type}
score:
  every: 1d
label:
  kind: churn
  horizon: 7d
  active_within: 7d
"""

# What is replaced, by what, the line of the error, and what its line must say.
BROKEN = [
    # unknown and missing keys
    (
        "  steps: 30",
        "  stepz: 30",
        11,
        "sequence.stepz: unknown key; did you mean steps? allowed here: step, steps, ori",
    ),
    ("  steps: 30", "  stepz: 30", 9, "sequence.steps: missing; add steps: 52"),
    ("score:", "skore:", 16, "skore: unknown key; did you mean score? allowed here: task, description, events,"),
    ("score:\n  every: 1d\n", "", 1, "score: missing; add score: {every: 1w}"),
    ("task: churn_shop\n", "# a comment\n", 2, "task: missing; add task: churn_shop"),
    (
        "  every: 1d",
        "  every: 1d\n  horizon: 7d",
        18,
        "score.horizon: unknown key; it belongs in label; allowed here: every, allowed_",
    ),
    ("  every: 1d", "  every: 1d\n  steps: 3", 18, "score.steps: unknown key; it belongs in sequence; allowed"),
    ("  horizon: 7d\n", "", 18, "label.horizon: missing; add horizon: 30d"),
    (
        "  horizon: 7d",
        "  horizont: 7d",
        20,
        "label.horizont: unknown key; did you mean horizon? allowed here: kind, hori",
    ),
    ("  kind: churn\n", "", 18, "label.kind: missing; add kind: churn"),
    ("field: ts, ", "", 4, "events.time.field: missing; add field: ts"),
    (
        "{field: ts, unit: s}",
        "{field: ts, unit: s, tz: UTC}",
        4,
        "events.time.tz: unknown key; allowed here: field, unit",
    ),
    (
        "{agg: sum, field: amount}",
        "{agg: sum, feild: amount}",
        14,
        "features.1.feild: unknown key; did you mean field?",
    ),
    ("- {agg: count}", "- {by: type}", 13, "sequence.features.0.agg: missing; add agg: count"),
    # values that are not allowed
    ("unit: s}", "unit: sec}", 4, "events.time.unit: 'sec' is not allowed; it must be s, ms, us, ns or iso"),
    (
        "{agg: sum,",
        "{agg: summ,",
        14,
        "sequence.features.1.agg: 'summ' is not allowed; did you mean sum? it must be count,",
    ),
    (
        "kind: churn",
        "kind: chrun",
        19,
        f"label.kind: 'chrun' is not allowed; did you mean churn? it must be {one_of([*LABELS])}",
    ),
    ("kind: churn", "kind:", 19, f"label.kind: nothing is not allowed; it must be {one_of([*LABELS])}"),
    ("[event_id]", "event_id", 5, "events.identity: must be all, none or a list of fields such as [event_id], not 'ev"),
    ("[event_id]", "", 5, "events.identity: must be all, none or a list of fields such as [event_id], not nothing"),
    ("[event_id]", "[]", 5, "events.identity: name at least one field, or say all or none"),
    ("{bot: false}", "{bot: 1.5}", 6, "events.where.bot: must be text, a whole number, true or false, not 1.5"),
    ("{bot: false}", "\n    bot: [a]", 7, "events.where.bot: must be text, a whole number, true or false, not a list"),
    ("churn_shop", "Churn-Shop", 1, "task: 'Churn-Shop' is not a name; use a letter, then"),
    # values of another type
    (
        "entity: user_id",
        "entity: yes",
        3,
        "events.entity: YAML reads yes as true; write true, or put it in quotes where it is text: 'yes'",
    ),
    ("entity: user_id", "entity: 17", 3, "events.entity: must be text, not the number 17; put it in quotes: '17'"),
    ("entity: user_id", "entity: ''", 3, "events.entity: is empty; it needs at least one character"),
    ("entity: user_id", "entity:\n    - a", 3, "events.entity: must be text, not a list"),
    ("[event_id]", "[a, 3, b]", 5, "events.identity.1: must be text, not the number 3; put it in quotes: '3'"),
    ("type: [a, b]", "type: [a, off]", 8, "events.categories.type.1: YAML reads off as false; write"),
    ("type: [a, b]", "type: [a, true]", 8, "events.categories.type.1: must be text, and YAML reads true as true; put"),
    ("type: [a, b]", "type: a", 8, "events.categories.type: must be a list, such as [a, b], not 'a'"),
    ("type: [a, b]", "type: [a, a]", 8, "events.categories.type: list at least one value, each once"),
    ("type: [a, b]", "'': [a, b]", 8, "a key is empty; write the name of a field"),
    ("steps: 30", "steps: '30'", 11, "sequence.steps: must be a whole number, not '30'"),
    ("steps: 30", "steps: 30.5", 11, "sequence.steps: must be a whole number, not 30.5"),
    ("steps: 30", "steps: on", 11, "sequence.steps: YAML reads on as true; write true, or"),
    ("steps: 30", "steps: true", 11, "sequence.steps: must be a whole number, not true"),
    ("steps: 30", "steps: 0", 11, "sequence.steps: must be at least 1, not 0"),
    ("steps: 30", "steps: 100001", 11, "sequence.steps: must be at most 100000, not 100001"),
    ("{field: ts, unit: s}", "ts", 4, "events.time: must hold keys of its own, not 'ts'"),
    ("- {agg: count}\n", "- count\n", 13, "sequence.features.0: must hold keys of its own, not 'count'"),
    ("score:\n  every: 1d", "score: 1d", 16, "score: must hold keys of its own, not '1d'"),
    # durations and times
    (
        "horizon: 7d",
        "horizon: 7 days",
        20,
        "label.horizon: '7 days' does not fit; a duration is a whole number and a unit",
    ),
    ("horizon: 7d", "horizon:\n    7x", 21, "label.horizon: '7x' does not fit; a duration is"),
    ("horizon: 7d", "horizon: 30", 20, "label.horizon: 30 does not fit; a duration is"),
    ("horizon: 7d", 'horizon: "7d\\n"', 20, "does not fit; a duration is"),
    ("horizon: 7d", "horizon: 0d", 20, "label.horizon: must be longer than nothing"),
    ("horizon: 7d", "horizon: 999999w", 20, "label.horizon: '999999w' does not fit; a duration is at most 100 years"),
    ("  horizon: 7d", "  horizon:", 20, "label.horizon: is empty; a duration is"),
    ("step: 1d", "step: 1d\n  origin: monday", 11, "sequence.origin: 'monday' does not fit; a time is a date or"),
    ("step: 1d", "step: 1d\n  origin: 0001-01-01T00:00+14:00", 11, "a time is from year 1 to year 9999 in UTC"),
    ("step: 1d", "step: 0d", 10, "sequence.step: must be longer than nothing"),
    ("step: 1d", "step: 52000w", 10, "sequence.step: '52000w' does not fit; a duration is at most 100 years"),
    ("step: 1d", "step: 520w", 11, "sequence.steps: the history (step x steps) must be at most 100 years"),
    # keys that do not go together
    ("unit: s}", "unit: s, format: '%Y'}", 4, "events.time: give either unit (s, ms, us, ns, iso) or format"),
    ("{agg: sum, field: amount}", "{agg: sum}", 14, "sequence.features.1: sum needs a field"),
    ("- {agg: count}\n", "- {agg: count, field: x}\n", 13, "sequence.features.0: count takes no field"),
    ("by: type}", "by: kind}", 15, "sequence.features.2: 'kind' is not in events.categories; there are type"),
    ("by: type}", "by: type, values: [c]}", 15, "sequence.features.2: 'c' is not a value of events.categories.type"),
    ("by: type}", "by: type, values: []}", 15, "sequence.features.2.values: name at least one value, or leave"),
    ("by: type}", "values: [a]}", 15, "sequence.features.2: values goes with by"),
    ("- {agg: count}\n", "- {agg: count}\n    - {agg: count}\n", 12, "sequence.features: count() stands twice"),
    ("every: 1d", "every: 36h", 17, "score.every: must be a multiple of sequence.step (1d)"),
    ("every: 1d", "every: 1d\n  allowed_lateness: 1d", 18, "score.allowed_lateness: lateness is judged by arrival"),
    ("active_within: 7d", "active_within: 31d", 21, "label.active_within: must fit in the history (step x steps, 30d)"),
    (
        "kind: churn\n  horizon: 7d\n  active_within: 7d",
        "kind: path\n  field: close\n  steps: 3",
        20,
        "label.field: add the",
    ),
    ("  every: 1d", '  every: 1d\n  "a\\nb": 1', 18, "score.'a\\nb': unknown key; allowed here: every, allowed_lat"),
    # YAML
    ("  steps: 30", "  steps: 30\n  steps: 31", 12, "sequence.steps: stands twice, first in line 11; keep one of them"),
    ("  steps: 30", "  steps: .nan", 11, "sequence.steps: .nan is not a finite number"),
    ("  steps: 30", "  steps: !!python/name:os.system x", 11, "the tag !!python/name:os.system is not supported"),
    ("  steps: 30", "  steps: !!int thirty", 11, "sequence.steps: thirty cannot be read as a whole number"),
    ("  steps: 30", "  steps: !!bool thirty", 11, "sequence.steps: cannot be read as what its tag says"),
    ("entity: user_id", 'entity: "\\ud800"', 3, "events.entity: an escape that stands for no character"),
    ("entity: user_id", 'entity: "\\UFFFFFFFF"', 1, "not valid YAML: an escape that stands for no character"),
    ("entity: user_id", "entity: a\0", 3, "not valid YAML: a control character"),
    ("  where: {bot: false}", "  <<: {where: {}}", 6, "events.<<: merge keys (<<) are not supported"),
    ("  where: {bot: false}", "  ? [a]\n  : b", 6, "events.?: a key must be plain text"),
    ("[event_id]", "&i [*i]", 5, "not valid YAML: aliases (*name) are not supported; write the value out"),
    ("{field: ts, unit: s}", "{field: ts, unit: s", 5, "not valid YAML: "),
    ("  entity: user_id", "\tentity: user_id", 3, "indent with spaces, not tabs"),
    ("score:", "---\nscore:", 16, "not valid YAML: "),
    ("[event_id]", "[" * 5000 + "]" * 5000, 5, "not valid YAML: nested too deeply"),
    ("[event_id]", "{a: " * 5000 + "}" * 5000, 5, "not valid YAML: nested too deeply"),
    ("[event_id]", "\n" + "\n".join(" " * (4 + i) + "a:" for i in range(30)), 23, "not valid YAML: nested too deeply"),
    ("score:", "x: &a [1]\ny: &b [*a, *a]\nz: [*b, *b]\nscore:", 17, "not valid YAML: aliases (*name) are not supp"),
    # what YAML 1.1 reads otherwise than it looks
    (
        "steps: 30",
        "steps: 0x1F",
        11,
        "sequence.steps: YAML reads 0x1F as 31; write 31, or put it in quotes where it is",
    ),
    ("steps: 30", "steps: 010", 11, "sequence.steps: YAML reads 010 as 8; write 8, or"),
    ("steps: 30", "steps: 0b11", 11, "sequence.steps: YAML reads 0b11 as 3; write 3, or"),
    ("steps: 30", "steps: 1:30", 11, "sequence.steps: YAML reads 1:30 as 90; write 90, or"),
    ("steps: 30", "steps: 1:30.5", 11, "sequence.steps: YAML reads 1:30.5 as 90.5; write 90.5, or"),
    ("steps: 30", "steps: 09", 11, "sequence.steps: must be a whole number, not '09'"),
    ("steps: 30", "steps: 1e2", 11, "sequence.steps: must be a whole number, not '1e2'"),
    ("steps: 30", "steps: !!int ''", 11, "sequence.steps:  cannot be read as a whole number"),
    ("steps: 30", "steps: !!float ''", 11, "sequence.steps: cannot be read as what its tag says"),
    ("steps: 30", f"steps: 0x{'F' * 9000}", 11, "sequence.steps: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF cannot be"),
    ("steps: 30", f"steps: {'9' * 9000}", 11, "sequence.steps: 9999999999999999999999999999999999999999 cannot be"),
    ("steps: 30", f"steps: {'9' * 4200}", 11, "sequence.steps: must be at most 100000, not 9999"),
    (
        "{bot: false}",
        "{country: no}",
        6,
        "events.where.country: YAML reads no as false; write false, or put it in quotes",
    ),
    (
        "{bot: false}",
        "{zip: 010}",
        6,
        "events.where.zip: YAML reads 010 as 8; write 8, or put it in quotes where it is te",
    ),
    ("score:", '"\\ud800": 1\nscore:', 16, "a key has an escape that stands for no character"),
    # what no machine holds
    ("churn_shop", "T" * 9000, 1, "task: 'TTTTTTTTTT"),
    (
        "score:",
        "tune: {epochs: [1, 2, 3], seed: [" + "1, " * 4000 + "]}\nscore:",
        16,
        "tune: 12,000 combinations; at most 10,000",
    ),
]


def write(folder: Path, text: str | bytes) -> Path:
    file = folder / "task.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def refused(file: Path) -> list[str]:
    with pytest.raises(UserError) as e:
        load_task(file)
    return str(e.value).split("\n")


def test_a_good_file_loads(tmp_path: Path) -> None:
    task = load_task(str(write(tmp_path, GOOD)))
    assert task.task == "churn_shop"
    assert [f.name for f in task.features] == ["count()", "sum(amount)", "count()[type=a]", "count()[type=b]"]


@pytest.mark.parametrize(("old", "new", "line", "says"), BROKEN, ids=[f"{b[2]}-{b[3][:40]}" for b in BROKEN])
def test_a_broken_file_names_line_and_remedy(tmp_path: Path, old: str, new: str, line: int, says: str) -> None:
    assert GOOD.count(old) == 1
    file = write(tmp_path, GOOD.replace(old, new))
    lines = refused(file)
    assert any(text.startswith(f"{file}:{line}: ") and says in text for text in lines), lines
    assert not any(noise in str(lines) for noise in ("function-", "tagged-union", "literal[", "tuple[", "Value error"))


def test_many_values_are_not_compared_with_each_other(tmp_path: Path) -> None:
    """60,000 values take a fraction of a second, and would take minutes if each were held against all others."""
    document = yaml.safe_load(GOOD)
    document["events"]["categories"]["type"] = [f"v{i}" for i in range(60_000)]
    document["sequence"]["features"][2]["values"] = [f"v{i}" for i in range(59_000)]
    assert len(Task.model_validate_json(json.dumps(document)).features) == 59_002


def test_of_many_problems_the_first_are_told(tmp_path: Path) -> None:
    features = "".join("    - {agg: sum}\n" for _ in range(300))
    file = write(tmp_path, GOOD.replace("    - {agg: count}\n", features))
    *lines, last = refused(file)
    assert lines == [f"{file}:{13 + i}: sequence.features.{i}: sum needs a field" for i in range(SHOWN)]
    assert last == f"{file}: and more, which are told when these are mended"


def test_more_features_than_any_machine_holds_are_refused_before_they_are_made(tmp_path: Path) -> None:
    document = yaml.safe_load(GOOD)
    document["events"]["categories"]["type"] = [f"v{i}" for i in range(20_000)]
    document["sequence"]["features"] = [{"agg": "sum", "field": f"f{i}", "by": "type"} for i in range(5_000)]
    with pytest.raises(ValidationError, match=r"100,000,000 features, .* at most 100,000"):
        Task.model_validate_json(json.dumps(document))


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD + "#" * LARGEST)
    assert refused(file) == [f"{file}: is larger than 1,000,000 bytes, which no task file is; check the path"]
    assert "is larger than" in refused(Path("/dev/zero"))[0]


def test_all_errors_come_together_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD.replace("user_id", "no").replace("steps: 30", "steps: x").replace("7d", "7").replace("every", "evry")
    file = write(tmp_path, text)
    places = [line.removeprefix(f"{file}:").split(": ")[:2] for line in refused(file)]
    assert places == [
        ["3", "events.entity"],
        ["11", "sequence.steps"],
        ["16", "score.every"],
        ["17", "score.evry"],
        ["20", "label.horizon"],
        ["21", "label.active_within"],
    ]


def test_a_bad_list_item_is_one_error(tmp_path: Path) -> None:
    assert len(refused(write(tmp_path, GOOD.replace("[event_id]", "[a, 3]")))) == 1
    assert len(refused(write(tmp_path, GOOD.replace("{agg: sum,", "{agg: summ,")))) == 1


def test_numbers_of_the_model_take_a_point(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD + "model:\n  learning_rate: 1e-3\n  dropout: 1\n  units: [0]\n")
    assert refused(file) == [
        f"{file}:23: model.learning_rate: must be a number, not '1e-3'; write it with a point, such as 0.001 or 1.0e-3",
        f"{file}:24: model.dropout: must be less than 1.0, not 1",
        f"{file}:25: model.units.0: must be at least 1, not 0",
    ]
    assert load_task(write(tmp_path, GOOD + "model: {learning_rate: 1.0e-3, dropout: 0}")).model.dropout == 0


def many(n: int) -> str:
    return ", ".join(f"v{i}" for i in range(n))


@pytest.mark.parametrize(
    ("old", "new", "place", "says"),
    [
        ("steps: 30", "steps: 1000000000", "11: sequence.steps", "must be at most 100000, not 1000000000"),
        (
            "type: [a, b]",
            f"type: [{many(600)}]",
            "11: sequence.steps",
            "x 602 features are more numbers a sequence than",
        ),
        ("type: [a, b]", f"type: [a, b, {many(65_534)}]", "8: events.categories.type", "65,535 values, not 65,536"),
        (
            "task: ",
            "model: {batch_size: 9999999}\ntask: ",
            "1: model.batch_size",
            "must be at most 1048576, not 9999999",
        ),
        ("task: ", f"model: {{units: [{'8, ' * 33}]}}\ntask: ", "1: model.units", "33 entries; at most 32 are"),
        (
            "task: ",
            f"tune: {{seed: {list(range(101))}, epochs: {list(range(1, 101))}}}\ntask: ",
            "1: tune",
            "10,100 combinations; at most 10,000",
        ),
    ],
    ids=lambda value: value if len(value) < 40 else "",
)
def test_sizes_that_no_machine_has_room_for(tmp_path: Path, old: str, new: str, place: str, says: str) -> None:
    text = GOOD.replace(old, new).replace("step: 1d", "step: 1h")
    text = text.replace("steps: 30", "steps: 100000").replace("7d", "1d") if "600" in new or "v599]" in new else text
    [line] = refused(write(tmp_path, text))
    assert f":{place}: " in line
    assert says in line


LINES = GOOD.split("\n")
SCRAPS = [
    "",
    "x",
    "~",
    "[",
    "{a: b}",
    "- ",
    "yes",
    "1e999",
    "-1",
    "7d",
    "!!x ",
    "&a ",
    "*a",
    "'",
    "2024-01-01",
    "0x_",
    "\t",
    "?",
]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(LINES) - 1), st.sampled_from(SCRAPS), st.booleans()), min_size=1, max_size=3)
)
def test_any_scrap_of_yaml_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, str, bool]]
) -> None:
    lines = list(LINES)
    for at, scrap, whole in edits:
        key, colon, _ = lines[at].partition(":")
        lines[at] = scrap if whole else f"{key}{colon} {scrap}"
    with suppress(UserError):
        load_task(write(tmp_path_factory.mktemp("scraps"), "\n".join(lines)))


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n"])
def test_an_empty_file(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)
    assert refused(file) == [f"{file}:1: the file is empty; start from one of templates/tasks"]


@pytest.mark.parametrize(("text", "line"), [("just words", 1), ("\n\n- a\n- b\n", 3), ("42", 1)])
def test_a_file_without_keys(tmp_path: Path, text: str, line: int) -> None:
    file = write(tmp_path, text)
    assert refused(file)[0].startswith(f"{file}:{line}: a task file is a list of keys, task, description, events,")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "there is no such task file" in refused(tmp_path / "none.yaml")[0]
    assert "cannot be read (Is a directory)" in refused(tmp_path)[0]
    file = write(tmp_path, GOOD.encode().replace(b"user_id", b"us\xe9r"))
    assert refused(file) == [f"{file}:3: not UTF-8 text (byte 0xe9); save the file as UTF-8"]


def test_dates_and_odd_keys_are_text_and_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    text = GOOD.replace("step: 1d", "step: 1d\n  origin: 2024-01-01").replace(
        "{bot: false}", "{no: x, 2017: 3, day: 2024-01-01}"
    )
    task = load_task(write(tmp_path, b"\xef\xbb\xbf" + text.encode()))
    assert task.sequence.origin == 1_704_067_200_000_000
    assert task.events.where == {"no": "x", "2017": 3, "day": "2024-01-01"}


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(task_schema())
    assert not {"title", "$schema", "$id"} & set(task_schema())


def test_the_schema_refuses_what_the_loader_refuses() -> None:
    validator = jsonschema.Draft202012Validator(task_schema())
    for old, new in (("steps: 30", "stepz: 30"), ("7d", "7"), ("kind: churn", "kind: chrun"), ("[event_id]", "some")):
        assert not validator.is_valid(yaml.safe_load(GOOD.replace(old, new)))
    assert validator.is_valid(yaml.safe_load(GOOD))


def test_every_required_key_has_an_example() -> None:
    definitions, labels = task_schema()["$defs"], [kind.__name__ for kind in LABELS.values()]
    sections = {"": task_schema(), "events.": definitions["Events"], "sequence.": definitions["Sequence"]}
    sections |= {"score.": definitions["Score"], "sequence.features.": definitions["FeatureSpec"]}
    sections |= {"events.time.": definitions["TimeField"], "events.arrival.": definitions["TimeField"]}
    needed = {f"{at}{key}" for at, section in sections.items() for key in section["required"]}
    needed |= {f"label.{key}" for name in labels for key in definitions[name]["required"]}
    assert needed == set(EXAMPLES)
    assert {d for d in definitions if definitions[d].get("required")} == {
        *("Events", "Sequence", "Score", "FeatureSpec", "TimeField", *labels)
    }


def test_six_tasks_are_shipped() -> None:
    assert len(SHIPPED) == 6


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_a_shipped_task_loads_and_fits_the_schema(file: Path) -> None:
    task = load_task(file)
    assert task.task == file.stem
    assert isinstance(task.label, ChurnLabel if file.stem.startswith("churn") else PathLabel)
    plain = json.loads(json.dumps(yaml.safe_load(file.read_text(encoding="utf-8")), default=str))
    jsonschema.Draft202012Validator(task_schema()).validate(plain)


def test_describe_says_what_a_task_means(tmp_path: Path) -> None:
    text = GOOD.replace("unit: s}", "unit: s}\n  arrival: {field: seen, unit: iso}")
    text = text.replace("every: 1d", "every: 1d\n  allowed_lateness: 2d")
    assert describe(load_task(write(tmp_path, text))).split("\n") == [
        "task        churn_shop",
        "entity      user_id",
        "event time  ts (s)",
        "arrival     seen (iso)",
        "identity    entity, time, event_id",
        "only where  bot is false",
        "history     30 steps of 1d, 30d; steps start at 1970-01-01",
        "features    4 a step: count(), sum(amount), count()[type=a], count()[type=b]",
        "as-of       every 1d, open to corrections for 2d",
        "label       churn: silent for 1w after the as-of, among those active in the 1w before it",
        "outputs     churn",
        "model       mlp of 64, 64 units, 1 member(s), seed 7",
    ]


def test_describe_of_a_path() -> None:
    text = describe(load_task(ROOT / "templates" / "tasks" / "price_crypto.yaml"))
    assert "label       path: the last close in each of the next 10 steps" in text
    assert "outputs     step_1 to step_10, and each as p10 and p90" in text
    assert "and 9 more" in describe(load_task(ROOT / "templates" / "tasks" / "churn_grocery.yaml"))


def test_the_digest_is_of_the_meaning(tmp_path: Path) -> None:
    task = load_task(write(tmp_path, GOOD))
    assert task.digest == load_task(write(tmp_path, GOOD.replace("task:", "description: d\ntask:"))).digest
    assert task.digest != load_task(write(tmp_path, GOOD.replace("steps: 30", "steps: 31"))).digest
