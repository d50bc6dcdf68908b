"""What a task file can say: the specification of one kind of score, validated, with nothing computed from data.

A task is a leaf: every other module reads it, it imports none of them. `pipelines.taskfile` reads it from YAML.
All times and durations are integers of microseconds, in UTC.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator

Aggregation = Literal["count", "sum", "mean", "min", "max", "std", "first", "last", "distinct", "recency"]
Fill = Literal["zero", "forward"]
Scale = Literal["log", "relative", "none"]
Kind = Literal["text", "number", "epoch"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST, LAST = ((t.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) for t in (datetime.min, datetime.max))
UNITS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}
DURATION = r"^[0-9]+(ms|s|m|h|d|w)$"
WIDEST = 100_000  # features of a step
MOST_TRIALS = 10_000
LONGEST = 36_525 * UNITS["d"]  # a century: no sum of times and durations leaves 64 bits


def parse_duration(text: object) -> int:
    """A duration such as `30s`, `12h`, `7d` or `1w`, in microseconds."""
    match = re.fullmatch(r"([0-9]{1,18})(ms|s|m|h|d|w)", text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("a duration is a whole number and a unit (ms, s, m, h, d or w), such as 12h or 7d")
    micros = int(match[1]) * UNITS[match[2]]
    if micros > LONGEST:
        raise ValueError("a duration is at most 100 years (36525d)")
    return micros


def parse_time(text: object) -> int:
    """A date or time in ISO 8601, UTC unless it carries an offset, in microseconds since 1970."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        raise ValueError("a time is a date or an ISO 8601 time, such as 2024-01-01 or 2024-01-01T06:00") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    micros = (moment - EPOCH) // timedelta(microseconds=1)
    if not FIRST <= micros <= LAST:  # by its offset
        raise ValueError("a time is from year 1 to year 9999 in UTC")
    return micros


def format_time(micros: int) -> str:
    """The inverse of `parse_time`: `2024-01-01` for a midnight, else with the time of day. Words for what is no time of
    a calendar, which rows in another unit have."""
    if not FIRST <= micros <= LAST:
        return "after the year 9999" if micros > 0 else "before the year 1"
    moment = EPOCH + timedelta(microseconds=micros)
    text = moment.replace(tzinfo=None).isoformat()
    return text.removesuffix("T00:00:00")


def format_duration(micros: int) -> str:
    """The inverse of `parse_duration`, in the largest unit that divides it."""
    if micros == 0:
        return "0s"
    unit = next((u for u in ("w", "d", "h", "m", "s") if micros % UNITS[u] == 0), "ms")
    return f"{micros // UNITS[unit]}{unit}"


Duration = Annotated[
    int, BeforeValidator(parse_duration), WithJsonSchema({"type": "string", "pattern": DURATION, "examples": ["7d"]})
]
Moment = Annotated[int, BeforeValidator(parse_time), WithJsonSchema({"type": "string", "examples": ["2024-01-01"]})]
Name = Annotated[str, Field(min_length=1)]


class Spec(BaseModel):
    """A section of the task file: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TimeField(Spec):
    """Where a time stands and how it is written: a number of `unit`s since 1970, or text in a `format`."""

    field: Name
    unit: Literal["s", "ms", "us", "ns", "iso"] | None = Field(
        None, description="s, ms, us or ns since 1970; iso for ISO 8601 text, dates and timestamp columns"
    )
    format: Name | None = Field(None, description="strptime format of a text field, UTC unless it has %z")

    @model_validator(mode="after")
    def _one_of(self) -> TimeField:
        if (self.unit is None) == (self.format is None):
            raise ValueError("give either unit (s, ms, us, ns, iso) or format, such as format: '%d/%m/%Y'")
        return self

    @property
    def kind(self) -> Kind:
        return "text" if self.unit in (None, "iso") else "epoch"


class Events(Spec):
    """The fields of an event."""

    entity: Name = Field(description="the field that says who or what is scored")
    time: TimeField = Field(description="event time: when it happened")
    arrival: TimeField | None = Field(None, description="when the event became known; without it, all is known at once")
    identity: Literal["all", "none"] | tuple[Name, ...] = Field(
        description="the fields that, with entity and time, make two rows the same event; "
        "all: every column of the row; none: every row is an event of its own"
    )
    max_skew: Duration = Field(
        UNITS["d"], description="an event whose time is later than its arrival by more is refused"
    )
    where: Mapping[Name, str | bool | int] = Field(
        {}, description="only rows whose fields have these values are events"
    )
    categories: Mapping[Name, tuple[Name, ...]] = Field(
        {}, description="fields with few values, and the values that count"
    )

    @model_validator(mode="after")
    def _fields(self) -> Events:
        if self.identity == ():
            raise ValueError("identity: name at least one field, or say all or none")
        for field, values in self.categories.items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f"categories.{field}: list at least one value, each once")
        return self


class FeatureSpec(Spec):
    """One feature of a step, or one for each value of a category (`by`)."""

    agg: Aggregation
    field: Name | None = None
    by: Name | None = Field(None, description="a field of events.categories: one feature for each of its values")
    values: tuple[Name, ...] | None = Field(None, description="with by: only these values")
    fill: Fill = Field("zero", description="a step without events: 0, or the value of the last step that has some")
    scale: Scale = Field("log", description="how the model sees it: sign(x) log(1+|x|), log(x / last x), or as it is")
    vocabulary: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="first or last of a text field: the model learns this many of its most frequent values"
    )

    @model_validator(mode="after")
    def _shape(self) -> FeatureSpec:
        if (self.field is None) != (self.agg in ("count", "recency")):
            raise ValueError(f"{self.agg} takes no field" if self.field else f"{self.agg} needs a field")
        if self.vocabulary is not None and self.agg not in ("first", "last"):
            raise ValueError("vocabulary goes with first or last of a text field")
        if self.agg == "recency" and self.by is not None:
            raise ValueError("recency takes no by: it is the time since the last event of any kind")
        if self.values is not None and self.by is None:
            raise ValueError("values goes with by: name the category field")
        if self.values == ():
            raise ValueError("values: name at least one value, or leave it out for all")
        return self


class Sequence(Spec):
    """The tensor of an entity: `steps` steps of event time, each with the same features."""

    step: Duration
    steps: Annotated[int, Field(ge=1, le=100_000)]
    origin: Moment = Field(0, validate_default=False, description="a step boundary; the others follow from it")
    features: Annotated[tuple[FeatureSpec, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _positive(self) -> Sequence:
        if self.step <= 0:
            raise ValueError("step: must be longer than nothing")
        if self.step * self.steps > LONGEST:
            raise ValueError("steps: the history (step x steps) must be at most 100 years")
        return self


class Score(Spec):
    """When scores are due."""

    every: Duration = Field(description="time between two as-ofs, a multiple of sequence.step")
    allowed_lateness: Duration = Field(0, description="how long a score stays open to corrections, a multiple of every")


class ChurnLabel(Spec):
    """1 for an entity that was active in the last `active_within` before the as-of and silent in `horizon` after it."""

    kind: Literal["churn"]
    horizon: Duration
    active_within: Duration

    @model_validator(mode="after")
    def _positive(self) -> ChurnLabel:
        for key in ("horizon", "active_within"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key}: must be longer than nothing")
        return self


class PathLabel(Spec):
    """The last value of `field` in each of the `steps` steps after the as-of."""

    kind: Literal["path"]
    field: Name
    steps: Annotated[int, Field(ge=1, le=1_000)]
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.1, 0.9), description="what is predicted of each step beside the median"
    )

    @model_validator(mode="after")
    def _ascending(self) -> PathLabel:
        if list(self.quantiles) != sorted(set(self.quantiles)) or 0.5 in self.quantiles:
            raise ValueError("quantiles: in ascending order, each once, without 0.5, which is always there")
        return self

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantiles of a step, ascending, with the median."""
        return tuple(sorted((*self.quantiles, 0.5)))


class ModelSpec(Spec):
    """The network and how it is trained."""

    network: Literal["mlp", "gru", "lstm", "linear"] = Field(
        "mlp", description="mlp: on a summary of the sequence; the others see all its steps"
    )
    units: Annotated[tuple[Annotated[int, Field(ge=1, le=8192)], ...], Field(min_length=1)] = Field(
        (64, 64), description="of each layer"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    members: Annotated[int, Field(ge=1, le=16)] = Field(
        1, description="networks of other seeds; the score is their mean"
    )
    class_weights: Literal["none", "balanced"] = "none"
    calibration: Literal["none", "platt", "isotonic"] = Field(
        "platt", description="of churn, on the validation examples: how scores become probabilities"
    )
    batch_size: Annotated[int, Field(ge=1)] = 256
    epochs: Annotated[int, Field(ge=1)] = 30
    patience: Annotated[int, Field(ge=1)] = 5
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 7

    def with_values(self, values: Mapping[str, Any]) -> ModelSpec:
        """The same but for some keys. Raises ValidationError where a value is not allowed."""
        return ModelSpec.model_validate_json(json.dumps({**self.model_dump(mode="json"), **values}))


@dataclass(frozen=True)
class Feature:
    """One column of the tensor: `agg` of `field` over the events of a step, where category `by` has `value`."""

    agg: Aggregation
    field: str | None
    by: str | None
    value: str | None
    fill: Fill
    scale: Scale
    vocabulary: int | None = None  # the tensor holds codes of text values, see `sequences`

    @property
    def name(self) -> str:
        where = "" if self.by is None else f"[{self.by}={self.value}]"
        return f"{self.agg}({self.field or ''}){where}"


class Task(Spec):
    """A task file, whole. What is derived from it is a property."""

    task: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="its name, in lower case with _")]
    description: str = ""
    events: Events
    sequence: Sequence
    score: Score
    label: Annotated[ChurnLabel | PathLabel, Field(discriminator="kind")]
    model: ModelSpec = ModelSpec()
    tune: Mapping[Name, tuple[Any, ...]] = Field(
        {}, description="what foretide tune tries: keys of model, and the values of each"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        categories = self.events.categories
        values = {field: frozenset(named) for field, named in categories.items()}
        for i, f in enumerate(self.sequence.features):
            at = f"sequence.features.{i}"
            if f.by is not None and f.by not in categories:
                raise ValueError(f"{at}: {f.by!r} is not in events.categories{_known(categories)}")
            unknown = [v for v in f.values or () if f.by is not None and v not in values[f.by]]
            if unknown:
                raise ValueError(f"{at}: {unknown[0]!r} is not a value of events.categories.{f.by}")
        width = sum(1 if f.by is None else len(f.values or categories[f.by]) for f in self.sequence.features)
        if width > WIDEST:
            raise ValueError(f"sequence.features: {width:,} features a step; the most is {WIDEST:,}: name fewer values")
        names = [f.name for f in self.features]
        twice = next((n for n, times in Counter(names).items() if times > 1), None)
        if twice:
            raise ValueError(f"sequence.features: {twice} stands twice")
        self._due()
        self._labelled(names)
        self._tuned()
        return self

    def _due(self) -> None:
        every, lateness = self.score.every, self.score.allowed_lateness
        if every <= 0 or every % self.sequence.step:
            raise ValueError(
                f"score.every: must be a multiple of sequence.step ({format_duration(self.sequence.step)})"
            )
        if lateness % every:
            raise ValueError(f"score.allowed_lateness: must be a multiple of score.every ({format_duration(every)})")
        if lateness and self.events.arrival is None:
            raise ValueError("score.allowed_lateness: lateness is judged by arrival: name events.arrival")

    def _labelled(self, names: list[str]) -> None:
        if isinstance(self.label, ChurnLabel):
            if self.label.active_within > self.history:
                history = format_duration(self.history)
                raise ValueError(f"label.active_within: must fit in the history (step x steps, {history})")
            return
        field = self.label.field
        if not any(f.name == f"last({field})" and f.vocabulary is None for f in self.features):
            level = f"{{agg: last, field: {field}, fill: forward}}"
            raise ValueError(f"label.field: add the feature {level}, the level that the path starts from")
        if self.horizon > LONGEST:
            raise ValueError("label.steps: the horizon (sequence.step x steps) must be at most 100 years")

    def _tuned(self) -> None:
        trials = math.prod(map(len, self.tune.values()))
        if trials > MOST_TRIALS:
            raise ValueError(f"tune: {trials:,} combinations; the most is {MOST_TRIALS:,}: name fewer values")
        for key, values in self.tune.items():
            if key not in ModelSpec.model_fields:
                raise ValueError(f"tune.{key}: not a key of model; there are {', '.join(ModelSpec.model_fields)}")
            if not values:
                raise ValueError(f"tune.{key}: name at least one value")
            for value in values:
                try:
                    self.model.with_values({key: value})
                except ValidationError as error:
                    raise ValueError(f"tune.{key}: {value!r}: {error.errors()[0]['msg']}") from None

    @cached_property
    def trials(self) -> tuple[ModelSpec, ...]:
        """Every combination of the values to try; the model as it is where there are none."""
        chosen = itertools.product(*self.tune.values())
        return tuple(self.model.with_values(dict(zip(self.tune, values, strict=True))) for values in chosen)

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """The columns of the tensor, in order."""
        out: list[Feature] = []
        for f in self.sequence.features:
            values = (None,) if f.by is None else f.values or self.events.categories[f.by]
            out += [Feature(f.agg, f.field, f.by, v, f.fill, f.scale, f.vocabulary) for v in values]
        return tuple(out)

    @property
    def history(self) -> int:
        return self.sequence.step * self.sequence.steps

    @property
    def horizon(self) -> int:
        """How far after the as-of the label looks."""
        return self.label.horizon if isinstance(self.label, ChurnLabel) else self.label.steps * self.sequence.step

    @property
    def churn_terms(self) -> tuple[int | None, int | None]:
        """`horizon` and `active_within` of a churn label, us; none of another."""
        label = self.label
        return (label.horizon, label.active_within) if isinstance(label, ChurnLabel) else (None, None)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the score columns: the probability of churn; or the median level of each step ahead, then the
        other quantiles, such as step_1_p10."""
        if isinstance(self.label, ChurnLabel):
            return ("churn",)
        steps = [f"step_{i + 1}" for i in range(self.label.steps)]
        return (*steps, *(f"{s}_p{100 * q:g}".replace(".", "_") for s in steps for q in self.label.quantiles))

    @property
    def label_width(self) -> int:
        """Numbers in the label of an example: 1, or the steps of the path."""
        return 1 if isinstance(self.label, ChurnLabel) else self.label.steps

    @cached_property
    def numeric(self) -> tuple[str, ...]:
        """Fields whose values are aggregated, in the order of `EventBlock.values`."""
        fields = [f.field for f in self.features if f.field is not None and not _hashed(f)]
        label = [self.label.field] if isinstance(self.label, PathLabel) else []
        return tuple(dict.fromkeys(fields + label))

    @cached_property
    def categorical(self) -> tuple[str, ...]:
        """Fields that features are split by, in the order of `EventBlock.codes`."""
        return tuple(dict.fromkeys(f.by for f in self.features if f.by is not None))

    @cached_property
    def hashed(self) -> tuple[str, ...]:
        """Fields whose values are told apart by hash, in the order of `EventBlock.hashes`."""
        return tuple(dict.fromkeys(f.field for f in self.features if f.field is not None and _hashed(f)))

    @cached_property
    def columns(self) -> dict[str, Kind]:
        """Every field that must be read, and how text formats should read it. Text wins where uses differ."""
        ev = self.events
        kinds: dict[str, Kind] = dict.fromkeys(self.numeric, "number")
        for t in (ev.time, *([ev.arrival] if ev.arrival else [])):
            kinds[t.field] = t.kind
        identity = ev.identity if isinstance(ev.identity, tuple) else ()
        kinds.update(dict.fromkeys((ev.entity, *identity, *ev.where, *self.categorical, *self.hashed), "text"))
        return kinds

    @cached_property
    def digest(self) -> str:
        """12 hex digits that change when anything but the description changes."""
        return hashlib.sha256(self.model_dump_json(exclude={"description", "tune"}).encode()).hexdigest()[:12]

    def with_model(self, model: ModelSpec) -> Task:
        """The same with another model section. (A copy would keep what was derived from the old one.)"""
        return Task.model_construct(**{**{name: getattr(self, name) for name in Task.model_fields}, "model": model})

    def boundary(self, micros: int) -> bool:
        """Whether a time is a step boundary, and so may be an as-of."""
        return (micros - self.sequence.origin) % self.sequence.step == 0


def _hashed(f: Feature) -> bool:
    return f.agg == "distinct" or f.vocabulary is not None


def _known(names: Mapping[str, Any]) -> str:
    return f"; there are {', '.join(names)}" if names else ", which is empty"
