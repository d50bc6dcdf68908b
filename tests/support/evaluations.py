"""Evaluations as they come out of a training, of simulated entities and prices: what the report page is made from."""

from __future__ import annotations

import numpy as np

from pipelines.evaluation import schema
from pipelines.models import metrics
from pipelines.models.metrics import Array, Doubles

DAYS = [f"2017-{m:02d}-{d:02d}" for m in range(1, 13) for d in (2, 16)]


def churn(entities: int = 1016, seed: int = 3, method: str = "platt") -> schema.Churn:
    """Entities of known risk, seen through ever more noise by the network and the baselines; three test as-ofs."""
    random = np.random.default_rng(seed)
    logit = random.normal(-1.7, 1.6, entities)
    label = (random.random(entities) < _share(logit)).astype(float)
    known = {"network": 0.2, "LightGBM on aggregates": 0.32, "logistic regression": 0.75, "recency alone": 1.6}
    scores = {name: logit + random.normal(0, noise, entities) for name, noise in known.items()}
    models = [_churn_model(name, label, score) for name, score in scores.items()]
    for model in models[1:]:
        gap = model["auc"] - models[0]["auc"]
        model["minus_network"] = {"auc": gap, "low": gap - 0.013, "high": gap + 0.013}
    models[-1] |= {"brier": None, "ece": None}
    before = _reliability(label, _share(1.7 * scores["network"] + 0.5))
    return {
        "kind": "churn",
        **_head(
            "churn_grocery", "a household that bought in the last four weeks will buy nothing in the next four", 28
        ),
        "test": {"as_ofs": DAYS[21:], "entities": entities, "share": float(label.mean())},
        "models": models,
        "calibration": {"method": method, "before": before, "after": _reliability(label, _share(scores["network"]))},
        "by_as_of": [_churn_as_of(i, random) for i in range(len(DAYS))],
        "importance": _importance(0.05, random),
        "drift": _drift(_share(scores["network"]), _share(logit + random.normal(-0.1, 0.3, entities)), random),
    }


def path(steps: int = 7, seed: int = 5) -> schema.Path:
    """Forecasts that are a little closer than the last level, the more so the further ahead."""
    random = np.random.default_rng(seed)
    gains = {"network": 0.03, "naive last value": 0.0, "drift": -0.011, "seasonal naive": -0.39}
    return {
        "kind": "path",
        **_head("price_crypto", "the closing price of a coin on each of the next seven days", 7),
        "test": {"as_ofs": DAYS[18:], "entities": 5_120, "share": None},
        "models": [_path_model(name, gain, steps, random) for name, gain in gains.items()],
        "coverage": [{"step": s, "nominal": 0.8, "actual": 0.80 - 0.004 * s} for s in range(1, steps + 1)],
        "by_as_of": [_path_as_of(i, random) for i in range(len(DAYS))],
        "fan": [_fan(name, start, steps, random) for name, start in COINS],
        "importance": _importance(0.4, random),
        "drift": _drift(random.normal(0, 1.1, 4000), random.normal(-0.3, 1.6, 4000), random),
    }


COINS = (("BTC", 61_000.0), ("ETH", 3_100.0), ("ADA", 0.42), ("SHIB", 0.0000213))
FEATURES = (
    "recency",
    "distinct(basket_id)",
    "sum(sales_value)",
    "count",
    "distinct(product_id)",
    "sum(retail_disc)",
    *(f"count[department={d}]" for d in ("GROCERY", "DRUG GM", "PRODUCE", "MEAT-PCKGD", "DELI", "PASTRY", "NUTRITION")),
    "distinct(store_id)",
    "sum(coupon_disc)",
    "count[department=SEAFOOD-PCKGD]",
    "count[department=MISCELLANEOUS]",
)


def _head(task: str, description: str, horizon: float) -> schema.EvaluationHead:
    return {
        "task": task,
        "version": "20261121T140212-9f3c",
        "description": description,
        "horizon_days": horizon,
        "created": "2026-11-21T14:02:12Z",
        "test": {"as_ofs": [], "entities": 0, "share": None},
    }


def _share(logit: Doubles) -> Doubles:
    return 1 / (1 + np.exp(-logit))


def _churn_model(name: str, label: Doubles, score: Doubles) -> schema.ChurnModel:
    auc, ap = metrics.auc(label, score), metrics.average_precision(label, score)
    sizes, held = metrics.deciles(label, score)
    roc, pr = metrics.roc(label, score), metrics.precision_recall(label, score)
    quality = metrics.reliability(label, _share(score))
    return {
        "name": name,
        "auc": auc,
        "auc_low": auc - 0.024,
        "auc_high": auc + 0.022,
        "ap": ap,
        "ap_low": ap - 0.05,
        "ap_high": ap + 0.047,
        "brier": metrics.brier(label, _share(score)),
        "ece": quality.error,
        "roc": {"x": roc.x.tolist(), "y": roc.y.tolist()},
        "pr": {"x": pr.x.tolist(), "y": pr.y.tolist()},
        "lift": [
            {
                "decile": i + 1,
                "entities": int(n),
                "positives": float(p),
                "share": float(p / n),
                "lift": float(p / n / label.mean()),
                "captured": float(p / label.sum()),
            }
            for i, (n, p) in enumerate(zip(sizes, held, strict=True))
        ],
        "minus_network": None,
    }


def _reliability(label: Doubles, said: Doubles) -> schema.Reliability:
    quality = metrics.reliability(label, said)
    bins = zip(*(v.tolist() for v in (quality.predicted, quality.actual, quality.rows)), strict=True)
    rows: list[schema.Bin] = [{"predicted": p, "actual": a, "entities": n} for p, a, n in bins]
    return {"brier": metrics.brier(label, said), "ece": quality.error, "bins": rows}


def _set(i: int) -> schema.Set:
    return "train" if i < 16 else "validation" if i < 18 else "test"


def _churn_as_of(i: int, random: np.random.Generator) -> schema.ChurnAsOf:
    """The third has one kind of entity only."""
    row: schema.ChurnAsOf = {
        "as_of": DAYS[i],
        "set": _set(i),
        "entities": 900 + 6 * i,
        "share": 0.22 + 0.02 * float(random.random()),
        "auc": None,
        "auc_low": None,
        "auc_high": None,
    }
    if i != 2:
        auc = 0.86 - 0.001 * i + float(random.normal(0, 0.005))
        row |= {"auc": auc, "auc_low": auc - 0.026, "auc_high": auc + 0.024}
    return row


def _importance(most: float, random: np.random.Generator) -> list[schema.Importance]:
    drops = [most * 0.62**i for i in range(len(FEATURES))]
    spread = random.uniform(0.02, 0.06, len(FEATURES)) * most
    return [
        {"feature": name, "drop": d, "low": d - float(s), "high": d + float(s)}
        for name, d, s in zip(FEATURES, drops, spread, strict=True)
    ]


def _drift(train: Array, test: Array, random: np.random.Generator) -> schema.Drift:
    edges = np.histogram_bin_edges(np.concatenate([train, test]), 24)
    before, after = ((np.histogram(v, edges)[0] / len(v)).tolist() for v in (train, test))
    moved = np.sort(random.gamma(0.8, 0.05, len(FEATURES)))[::-1].tolist()
    names = random.permutation(FEATURES).tolist()
    return {
        "scores": {"psi": metrics.psi(train, test), "edges": edges.tolist(), "train": before, "test": after},
        "features": [{"feature": name, "psi": psi} for name, psi in zip(names, moved, strict=True)],
    }


def _path_model(name: str, gain: float, steps: int, random: np.random.Generator) -> schema.PathModel:
    naive = name == "naive last value"
    rows: list[schema.Step] = []
    for step in range(1, steps + 1):
        luck = 0 if naive else float(random.normal(0, 0.001))
        base, skill = 2.4 * step**0.55, gain * (0.3 + 0.7 * step / steps) + luck
        width = 0 if naive else 0.012
        rows.append(
            {"step": step, "error": base * (1 - skill), "skill": skill, "low": skill - width, "high": skill + width}
        )
    mean = float(np.mean([r["skill"] for r in rows]))
    width = 0 if naive else 0.011
    return {"name": name, "by_step": rows, "skill": mean, "low": mean - width, "high": mean + width}


def _path_as_of(i: int, random: np.random.Generator) -> schema.PathAsOf:
    skill, naive = 0.03 - 0.001 * i + float(random.normal(0, 0.02)), 4 + float(random.random())
    row: schema.PathAsOf = {
        "as_of": DAYS[i],
        "set": _set(i),
        "entities": 240 + i,
        "error": naive * (1 - skill),
        "error_naive": naive,
        "skill": skill,
    }
    return row


def _fan(entity: str, start: float, steps: int, random: np.random.Generator) -> schema.Fan:
    levels = start * np.exp(np.cumsum(random.normal(0, 0.03, 60 + steps)))
    ahead = np.arange(1, steps + 1)
    middle = levels[59] * np.exp(0.002 * ahead)
    return {
        "entity": entity,
        "as_of": DAYS[20],
        "history": levels[:60].tolist(),
        "actual": levels[60:].tolist(),
        "quantiles": {
            str(q): (middle * np.exp(z * 0.032 * np.sqrt(ahead))).tolist()
            for q, z in ((0.1, -1.28), (0.5, 0), (0.9, 1.28))
        },
    }
