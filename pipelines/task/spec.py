"""What a task file can say: the specification of one kind of score, validated, with nothing computed from data.

A task is a leaf: every other module reads it, it imports none of them. `pipelines.task.file` reads it from YAML.
All times and durations are integers of microseconds, in UTC.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from pipelines.task.aggregations import AGGREGATIONS, WORDED, Aggregation, AggregationName, Reads, StepAggregation
from pipelines.task.fields import LONGEST, UNITS, Duration, Moment, Name, Spec, format_duration
from pipelines.task.labels.kinds import AnyLabel

Fill = Literal["zero", "forward"]
Scale = Literal["log", "relative", "none"]
Kind = Literal["text", "number", "epoch"]

CATEGORIES = 65_535  # values of a category, at most: an event keeps the number of its value in 16 bits
FEATURES = 100_000  # columns of a step, at most; each has names and places of its own in every process
CELLS = 1 << 24  # steps x features, at most: 64 MiB, and models are called with 16 sequences at least
TRIALS = 10_000  # of foretide tune, at most: each is a training


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
            if len(values) > CATEGORIES:
                raise ValueError(f"categories.{field}: at most {CATEGORIES:,} values, not {len(values):,}")
        return self


class FeatureSpec(Spec):
    """One feature of a step, or one for each value of a category (`by`)."""

    agg: AggregationName
    field: Name | None = None
    by: Name | None = Field(None, description="a field of events.categories: one feature for each of its values")
    values: tuple[Name, ...] | None = Field(None, description="with by: only these values")
    fill: Fill = Field("zero", description="a step without events: 0, or the value of the last step that has some")
    scale: Scale = Field("log", description="how the model sees it: sign(x) log(1+|x|), log(x / last x), or as it is")
    vocabulary: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description=f"{WORDED} of a text field: the model learns this many of its most frequent values"
    )

    @model_validator(mode="after")
    def _shape(self) -> FeatureSpec:
        aggregation = AGGREGATIONS[self.agg]
        if (self.field is None) != (aggregation.reads == "nothing"):
            raise ValueError(f"{self.agg} takes no field" if self.field else f"{self.agg} needs a field")
        if self.vocabulary is not None and not aggregation.words:
            raise ValueError(f"vocabulary goes with {WORDED} of a text field")
        if self.by is not None and aggregation.whole:
            raise ValueError(f"{self.agg} takes no by: {aggregation.whole}")
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


class ModelSpec(Spec):
    """The network and how it is trained."""

    network: Literal["mlp", "gru", "lstm", "linear"] = Field(
        "mlp", description="mlp: on a summary of the sequence; the others see all its steps"
    )
    units: Annotated[tuple[Annotated[int, Field(ge=1, le=8192)], ...], Field(min_length=1, max_length=32)] = Field(
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
    batch_size: Annotated[int, Field(ge=1, le=1 << 20)] = 256
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

    agg: AggregationName
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

    @property
    def aggregation(self) -> Aggregation:
        return AGGREGATIONS[self.agg]

    @property
    def reads(self) -> Reads:
        """What the aggregation is given of an event."""
        return self.aggregation.reads if self.vocabulary is None else "word"

    @property
    def quantity(self) -> bool:
        """Whether it says how much or how many: no text, and no age."""
        return self.vocabulary is None and self.aggregation.measures != "age"

    @property
    def by_step(self) -> bool:
        """Whether each step follows from its own events, so that `fill` says what a step without any has."""
        return isinstance(self.aggregation, StepAggregation)

    @property
    def zero(self) -> bool:
        """Whether a step without events is 0."""
        return self.by_step and self.fill == "zero"


class Task(Spec):
    """Everything that a task file says. What is derived from it is a property."""

    task: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="its name, in lower case with _")]
    description: str = ""
    events: Events
    sequence: Sequence
    score: Score
    label: AnyLabel
    model: ModelSpec = ModelSpec()
    tune: Mapping[Name, tuple[Any, ...]] = Field(
        {}, description="what foretide tune tries: keys of model, and the values of each"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        self._bounded()
        categories = self.events.categories
        values = {field: frozenset(named) for field, named in categories.items()}
        for i, f in enumerate(self.sequence.features):
            at = f"sequence.features.{i}"
            if f.by is not None and f.by not in categories:
                raise ValueError(f"{at}: {f.by!r} is not in events.categories{_known(categories)}")
            unknown = [v for v in f.values or () if f.by is not None and v not in values[f.by]]
            if unknown:
                raise ValueError(f"{at}: {unknown[0]!r} is not a value of events.categories.{f.by}")
        names = [f.name for f in self.features]
        twice = next((n for n, times in Counter(names).items() if times > 1), None)
        if twice:
            raise ValueError(f"sequence.features: {twice} stands twice")
        self._due()
        self.label.check(self)
        self._tuned()
        return self

    def _bounded(self) -> None:
        """Before anything is made of each feature or trial: a line of a task file can ask for billions."""
        categories = self.events.categories
        n = sum(1 if f.by is None else len(f.values or categories.get(f.by, ())) for f in self.sequence.features)
        if n > FEATURES:
            raise ValueError(
                f"sequence.features: {n:,} features, with one for each value of a category; "
                f"at most {FEATURES:,}: leave some out, or name fewer values"
            )
        if n * self.sequence.steps > CELLS:
            raise ValueError(
                f"sequence.steps: {self.sequence.steps:,} steps x {n:,} features are more numbers a sequence than "
                f"{CELLS:,}: take fewer or longer steps, or fewer features"
            )
        trials = math.prod(map(len, self.tune.values()))
        if trials > TRIALS:
            raise ValueError(f"tune: {trials:,} combinations; at most {TRIALS:,}: try fewer values at a time")

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

    def _tuned(self) -> None:
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
        return self.label.horizon_of(self.sequence.step)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the score columns."""
        return self.label.outputs

    @cached_property
    def numeric(self) -> tuple[str, ...]:
        """Fields whose values are aggregated, in the order of `EventBlock.values`."""
        fields = [f.field for f in self.features if f.field is not None and f.reads == "number"]
        return tuple(dict.fromkeys((*fields, *self.label.reads)))

    @cached_property
    def categorical(self) -> tuple[str, ...]:
        """Fields that features are split by, in the order of `EventBlock.codes`."""
        return tuple(dict.fromkeys(f.by for f in self.features if f.by is not None))

    @cached_property
    def hashed(self) -> tuple[str, ...]:
        """Fields whose values are told apart by hash, in the order of `EventBlock.hashes`."""
        return tuple(dict.fromkeys(f.field for f in self.features if f.field is not None and f.reads != "number"))

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


def _known(names: Mapping[str, Any]) -> str:
    return f"; there are {', '.join(names)}" if names else ", which is empty"
