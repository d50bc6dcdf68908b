"""What the figures mean: ratios against the targets, tables, and the machine they come from. Measures nothing."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import workload as w
from benchmarks.measure import Measured, threads

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")
PACKAGES = ("numpy", "pyarrow", "polars", "apache-beam", "tensorflow", "keras", "openvino", "lightgbm")
GB = 1e9


@dataclass(frozen=True)
class Results:
    """All that was measured, by name of contestant; one that failed is missing."""

    events: int
    measured: Mapping[str, Measured]


@dataclass(frozen=True)
class Target:
    """A ratio that is aimed at. `formula` raises KeyError where a contestant is missing."""

    what: str
    goal: float
    at_most: bool
    formula: Callable[[Results], float]

    def row(self, results: Results) -> list[str]:
        goal = f"{'≤' if self.at_most else '≥'} {self.goal:g}"
        try:
            value = self.formula(results)
        except KeyError as missing:
            return [self.what, goal, "not measured", f"no {missing.args[0]}"]
        met = value <= self.goal if self.at_most else value >= self.goal
        return [self.what, goal, f"{value:.2f}", "yes" if met else "no"]


def features(kind: str) -> Callable[[Results], float]:
    """CPU of ours over the faster of the two polars scripts."""
    return lambda r: r.measured[f"ours {kind}"].cpu / best_polars(r, kind).cpu


def best_polars(results: Results, kind: str) -> Measured:
    return min((results.measured[f"polars {how} {kind}"] for how in ("arrays", "frame")), key=lambda m: m.cpu)


def frame(kind: str) -> Callable[[Results], float]:
    """CPU of ours over the polars script that has expressions only."""
    return lambda r: r.measured[f"ours {kind}"].cpu / r.measured[f"polars frame {kind}"].cpu


def naive_cpu(results: Results, kind: str) -> float:
    """CPU seconds of the naive pipeline on all events: without its start, scaled from its part."""
    net = results.measured[f"naive part {kind}"].cpu - results.measured[f"naive start {kind}"].cpu
    return net * results.events / w.NAIVE


def naive(kind: str) -> Callable[[Results], float]:
    return lambda r: naive_cpu(r, kind) / r.measured[f"ours {kind}"].cpu


def end_to_end(engine: str) -> Callable[[Results], float]:
    """Wall of the whole processes, imports included."""
    return lambda r: r.measured[f"ours {engine}"].process_wall / r.measured["polars tensorflow"].process_wall


def inference(results: Results) -> float:
    """Of ours with TensorFlow, all that comes on top of the features, loading the model too: share of the sgemm rate.

    Both rates are GFLOP a CPU second, which a busy neighbour disturbs least.
    """
    scored, built = results.measured["ours tensorflow"], results.measured["ours parquet"]
    rate = w.FLOP * scored.extra["scores"] / (scored.cpu - built.cpu) / GB
    return rate / results.measured["sgemm"].extra["gflops_cpu"]


def bare_inference(results: Results) -> float:
    bare = results.measured["polars tensorflow"]
    rate = w.FLOP * bare.extra["scores"] / bare.extra["infer_cpu"] / GB
    return rate / results.measured["sgemm"].extra["gflops_cpu"]


def training(results: Results) -> float:
    """Of the training's steps, reading and preprocessing too: share of the sgemm rate.

    Forwards is one product of each matrix, backwards two: of what came in and of what went out.
    """
    steps = results.measured["training steps"]
    return 3 * w.FLOP * steps.extra["samples"] / steps.cpu / GB / results.measured["sgemm"].extra["gflops_cpu"]


def memory(results: Results) -> float:
    """Peak of a training on the most examples over that on the fewest."""
    few, many = (results.measured[f"training {n}"].peak for n in w.EXAMPLES)
    return many / few


def live(size: int) -> Callable[[Results], float]:
    """CPU of the stateful path over that of the consumer with dicts."""
    return lambda r: r.measured[f"live {size}"].cpu / r.measured["live naive"].cpu


def rows(results: Results) -> float:
    """Rows a second into BigQuery, over those of the bare loop."""
    ours, bare = (results.measured[f"table {how}"].extra["rows"] for how in ("ours", "bare"))
    return ours / bare


def flink(results: Results) -> float:
    """Wall of the work of a run on a cluster, without its start, over that of the same run here."""
    return results.measured["run flink"].extra["work"] / results.measured["run here"].extra["work"]


def peak(results: Results) -> float:
    """GB of the largest of our processes."""
    ours = [m.peak for name, m in results.measured.items() if name.startswith("ours")]
    if not ours:
        raise KeyError("ours parquet")
    return max(ours) / GB


TARGETS = (
    Target("features, Parquet: CPU of ours / polars", 0.8, True, features("parquet")),
    Target("features, JSON Lines: CPU of ours / polars", 1.0, True, features("jsonl")),
    Target("features, Parquet: CPU of naive Beam / ours", 70, False, naive("parquet")),
    Target("features, JSON Lines: CPU of naive Beam / ours", 70, False, naive("jsonl")),
    Target("end to end: wall of ours / polars + tf.function", 1.15, True, end_to_end("tensorflow")),
    Target("end to end, OpenVINO bf16: wall of ours / polars + tf.function", 0.75, True, end_to_end("openvino-bf16")),
    Target("inference of ours, share of the sgemm rate", 0.75, False, inference),
    Target("peak memory of ours, GB", 1.5, True, peak),
    Target("training on four times as many examples: peak memory", 1.1, True, memory),
    Target("score rows into BigQuery: rows/s of ours / a bare loop", 0.8, False, rows),
)
OTHERS: Mapping[str, Callable[[Results], float]] = {
    "features, Parquet: CPU of ours / polars with expressions only": frame("parquet"),
    "features, JSON Lines: CPU of ours / polars with expressions only": frame("jsonl"),
    "inference of the bare tf.function, share of the sgemm rate": bare_inference,
    "training of ours, share of the sgemm rate": training,
    "a run over files, without its start: wall on Flink / here": flink,
    **{f"live, bundles of {n:,} messages: CPU of ours / a consumer with dicts": live(n) for n in w.BUNDLES},
}


def others(results: Results) -> Iterator[list[str]]:
    for what, formula in OTHERS.items():
        try:
            yield [what, "", f"{formula(results):.2f}", ""]
        except KeyError as missing:
            yield [what, "", "not measured", f"no {missing.args[0]}"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned for the terminal too."""
    cells = [list(head), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(n) for c, n in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (n + 2) for n in widths) + "|")
    return "\n".join(lines)


def contestant_row(m: Measured) -> list[str]:
    used = [f"{x:.2f}" for x in (m.cpu, m.wall, m.process_cpu, m.process_wall)]
    return [m.name, *used, f"{m.peak / 1e6:,.0f}"]


def machine() -> dict[str, str]:
    """What the figures depend on: processor, versions, and how busy the machine is. Nothing that names it."""
    info = Path("/proc/cpuinfo").read_text()
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {k.strip(): v.strip() for k, v in fields.items()}
    flags = [f for f in FLAGS if f in fields.get("flags", "").split()]
    load = f"{os.getloadavg()[0]:.1f} (last minute)"
    head = {"processor": fields.get("model name", platform.machine()), "cores": str(threads())}
    return {**head, "flags": " ".join(flags), "load": load, "Python": platform.python_version(), **_versions()}


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def intro(results: Results) -> str:
    entities = results.events // w.PER_ENTITY
    return (
        f"`make bench`: {results.events:,} events of {entities:,} entities, 1 % of them twice, into {w.STEPS} daily "
        f"steps of {w.FEATURES} features; the model has two GRU layers of {w.UNITS}. CPU is user + system time; the "
        "first two columns leave out the start of the interpreter and its imports. Both polars scripts are the fastest "
        "of several: `arrays` finishes in numpy, `frame` has polars expressions only; ratios take the faster. Of "
        "three runs of what takes seconds, the one with the least CPU counts. Rates of inference and of sgemm are per "
        "CPU second, which a busy neighbour disturbs least. "
        "`training steps` is the same model learning from batches of "
        f"{w.BATCH}, three times the work of scoring them; `training N` is a whole training on N examples, from "
        "preprocessing to the report beside its baselines, with one epoch of a linear network. "
        "`live N` takes a stream in bundles of N messages up to the tensors of each boundary, in one process without a "
        "runner; `latency N` is a whole live job on Prism at N messages a second. "
        f"`table` writes {w.SCORES:,} score rows into an emulator of BigQuery: `ours` by way of staging and MERGE, "
        "`bare` in a loop over the same client, straight into the table. "
        "`run here` and `run flink` are `foretide score` with a small model, in two processes and on a cluster of this "
        "machine with two slots, once on few events and once on all."
    )


def markdown(results: Results) -> str:
    """The whole report."""
    m = results.measured
    heads = ("", "CPU s", "wall s", "CPU s, whole process", "wall s, whole process", "peak MB")
    return "\n\n".join(
        [
            "# Benchmark",
            intro(results),
            table(("ratio", "goal", "measured", "met"), [*(t.row(results) for t in TARGETS), *others(results)]),
            table(heads, [contestant_row(x) for x in m.values()]),
            *_stream(results),
            *_sentences(results),
            table(("machine", ""), [[k, v] for k, v in machine().items()]) + "\n",
        ]
    )


def _stream(results: Results) -> Iterator[str]:
    """The stateful path by size of bundle, and how long scores take."""
    paths = {f"{n:,}": results.measured.get(f"live {n}") for n in w.BUNDLES}
    paths["a consumer with dicts"] = results.measured.get("live naive")
    found = {name: m for name, m in paths.items() if m is not None}
    if found:
        parts = ("intake", "receive", "boundary")
        heads = ("messages in a bundle", "events/s a core", "all, µs/event", *(f"{part}, µs/event" for part in parts))
        yield table(heads, [_path_row(name, m, parts) for name, m in found.items()])
    waits = {rate: m.extra for rate in w.RATES if (m := results.measured.get(f"latency {rate}")) is not None}
    if waits:
        heads = ("messages/s", "p50, s", "p99, s", "longest, s", "events")
        keys = ("p50", "p99", "most")
        rows = [[f"{n:,}", *(f"{x[key]:.2f}" for key in keys), f"{x['tracked']:,.0f}"] for n, x in waits.items()]
        yield "From the publication of an event to a score on the disk that counts it, with early scores after 1 s:"
        yield table(heads, rows)


def _path_row(name: str, m: Measured, parts: Sequence[str]) -> list[str]:
    n = m.extra["messages"]
    each = [f"{m.extra[part] / n * 1e6:.1f}" if part in m.extra else "" for part in parts]
    return [name, f"{n / m.cpu:,.0f}", f"{m.cpu / n * 1e6:.1f}", *each]


def _sentences(results: Results) -> Iterator[str]:
    """What the columns of the table do not say."""
    m = results.measured
    scaled = [f"{k} {naive_cpu(results, k):,.0f} s" for k in ("parquet", "jsonl") if f"naive part {k}" in m]
    if scaled:
        yield f"The naive pipeline on {w.NAIVE:,} events, scaled to all and without its start: {', '.join(scaled)}."
    if "training steps" in m:
        steps, n = m["training steps"], m["training steps"].extra["samples"]
        yield f"The network learns from {n / steps.cpu:,.1f} examples a CPU second, {n / steps.wall:,.1f} a second."
    for name, where in (("run here", "here"), ("run flink", "on Flink")):
        if name in m:
            start, work = m[name].extra["start"], m[name].extra["work"]
            yield f"A run over files {where}: {start:.1f} s of start, and {work:.1f} s for the events."


def write(results: Results, folder: Path) -> str:
    """Writes results.md and results.json, and returns the first."""
    text = markdown(results)
    (folder / "results.md").write_text(text, encoding="utf-8")
    raw = {name: asdict(m) for name, m in results.measured.items()}
    content = {"events": results.events, "flop_per_sample": w.FLOP, "machine": machine(), "measured": raw}
    (folder / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return text
