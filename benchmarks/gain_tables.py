"""Tables of the evidence: methods beside each other, task by task, and against the targets."""

from __future__ import annotations

import operator

import numpy as np
import pandas as pd

from benchmarks.report import HARM, TOLERANCE, duel

RUN = ["task", "seed"]
RANKED = ("loss", "balanced", "bias", "cma", "mixloss", "mixbias", "ours")
CMA = ("cma_.02", "cma_.05", "cma_.1")
IMAGES = ("bccd_cells", "cifar10_small")
LEAST_WON = {
    "mixbias": 0.6,
    "mixloss": 0.7,
    "loss": 0.88,
    "balanced": 0.88,
    "bias": 0.88,
    "cma": 0.88,
}
ON_WEIGHTS = ("loss", "balanced", "mixloss", "mixbias")  # of the ranked, those that step φ
GUIDED = {"guided": "unguided", "film_guided": "film_unguided"}
UNITS = {"runs": RUN, "tasks": ["task"], "data sets": ["dataset"]}
FEW = 50  # observations
SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def in_setting(runs: pd.DataFrame, setting: str) -> pd.DataFrame:
    """Runs that ours has in a setting, with those of methods that count in both."""
    of_setting = runs[runs["setting"].isin([setting, "either"])]
    ours = runs[(runs["setting"] == setting) & (runs["method"] == "ours")]
    return of_setting.merge(ours[[*RUN, "budget"]].drop_duplicates(), on=[*RUN, "budget"])


def best_cma(design: pd.DataFrame) -> str:
    """The step size of CMA-ES that gained most on the design half."""
    shares = design[design["method"].isin(CMA)].groupby("method")["share"].mean()
    return str(shares.idxmax()) if len(shares) else CMA[1]


def with_cma(runs: pd.DataFrame, chosen: str) -> pd.DataFrame:
    """Rename the chosen CMA-ES to ``cma``."""
    return runs.assign(method=runs["method"].replace({chosen: "cma"}))


def average_ranks(runs: pd.DataFrame, methods: tuple[str, ...] = RANKED) -> pd.Series:
    """Mean rank of methods over runs that have all of them; the best has rank 1."""
    scores = runs.pivot_table(index=RUN, columns="method", values="test_score")
    known = [method for method in methods if method in scores]
    return scores[known].dropna().round(9).rank(axis=1, ascending=False).mean()


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per method that has all runs, best mean share of the possible gain first."""
    ours, ranks = _of(runs, "ours"), average_ranks(runs)
    rows = {
        method: _summary(part)
        | {"rank": _plain(ranks.get(method))}
        | _against(runs, part, "ours")
        | _against(runs, part, "ours_film")
        for method, part in runs.groupby("method")
        if len(part) == len(ours)
    }
    table = pd.DataFrame.from_dict(rows, orient="index").sort_values("share", ascending=False)
    table["share"] = table["share"].map("{:+.3f}".format)
    return table.rename(columns={"share": "gain/(best-base)"})


def partial_summary(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per method that has only some runs, beside ours on the same."""
    ours = _of(runs, "ours")
    rows = {}
    for method, part in runs.groupby("method"):
        if len(part) < len(ours):
            there = ours.merge(part[RUN], on=RUN)
            rows[method] = {
                "runs": len(part),
                "gain/(best-base)": f"{part['share'].mean():+.3f}",
                "ours there": f"{there['share'].mean():+.3f}",
                "harmed": f"{(part['gain'] < -TOLERANCE).mean():.2f}",
                "CPU s": f"{part['cpu_seconds'].median():.2f}",
                **_against(runs, part, "ours"),
                **_against(runs, part, "ours_film"),
            }
    return pd.DataFrame.from_dict(rows, orient="index")


def _plain(rank: float | None) -> str:
    return "" if rank is None else f"{rank:.2f}"


def _summary(part: pd.DataFrame) -> dict[str, object]:
    bounded = part.loc[part["bounded"], "gain"]
    return {
        "runs": len(part),
        "mean gain": f"{bounded.mean():+.4f}",
        "share": part["share"].mean(),
        "harmed": f"{(part['gain'] < -TOLERANCE).mean():.2f}",
        f"harmed > {HARM}": f"{(bounded < -HARM).mean():.2f}",
        "worst 5%": f"{bounded.quantile(0.05):+.4f}",
        "changed": f"{part['improved'].mean():.2f}",
        "calls": f"{part['n_scorer_calls'].median():.0f}",
        "CPU s": f"{part['cpu_seconds'].median():.2f}",
    }


def _against(runs: pd.DataFrame, rival: pd.DataFrame, ours: str) -> dict[str, str]:
    """How often one of ours won, and the p of the difference."""
    mine, name = _of(runs, ours), rival["method"].iloc[0]
    if mine.empty or name == ours:
        return {f"W/T/L of {ours}": "", f"p, {ours}": ""}
    told = duel(mine, rival, RUN)
    return {
        f"W/T/L of {ours}": f"{told['won']}/{told['tied']}/{told['lost']}",
        f"p, {ours}": "" if np.isnan(told["p"]) else f"{told['p']:.2g}",
    }


def by_task(runs: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """Mean base score of each task, and the mean gain of some methods."""
    gains = runs.pivot_table(index="task", columns="method", values="gain")
    base = runs.groupby("task")["base_score"].mean().rename("base").map("{:.4f}".format)
    known = [method for method in methods if method in gains]
    return pd.concat([base, gains[known].map(_signed)], axis=1)


def _signed(gain: float) -> str:
    return "" if np.isnan(gain) else f"{gain:+.4f}"


def guidance(runs: pd.DataFrame) -> pd.DataFrame:
    """Guided against unguided by ground, and over all of them."""
    rows = {}
    for method, rival in GUIDED.items():
        of_method = _of(runs, method)
        for ground in [*sorted(of_method["ground"].unique()), "all"]:
            part = of_method if ground == "all" else of_method[of_method["ground"] == ground]
            rows[f"{ground}, {method}"] = _guided(part, _of(runs, rival))
    return pd.DataFrame.from_dict(rows, orient="index")


def _guided(part: pd.DataFrame, unguided: pd.DataFrame) -> dict[str, object]:
    told = duel(part, unguided, RUN)
    decided = told["won"] + told["lost"]
    return {
        "tasks": part["task"].nunique(),
        "share of gain": f"{part['share'].mean():+.3f}",
        "minus unguided": f"{told['difference']:+.4f}" + _give_or_take(told["se"]),
        "W/T/L": f"{told['won']}/{told['tied']}/{told['lost']}",
        "won": f"{told['won'] / decided:.0%}" if decided else "",
        "tasks W/L": f"{told['tasks won']}/{told['tasks lost']}",
        "p": "" if np.isnan(told["p"]) else f"{told['p']:.2g}",
    }


def _give_or_take(se: float) -> str:
    return "" if np.isnan(se) else f" ± {se:.4f}"


def as_ours(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """Let one of our variants, with its guards, stand for ours."""
    names = {f"{name}{guard}": f"ours{guard}" for guard in ("", "_z0", "_z1.64")}
    kept = runs[runs["method"].isin(names) | ~runs["method"].str.startswith("ours")]
    return kept.assign(method=kept["method"].replace(names))


def with_rivals_on_weights(runs: pd.DataFrame) -> pd.DataFrame:
    """Let rivals step all weights, as ours does where these are few."""
    kept = runs[~runs["method"].isin(ON_WEIGHTS)]
    names = {f"weights_{name}": name for name in ON_WEIGHTS}
    return kept.assign(method=kept["method"].replace(names))


def targets(
    labelled: pd.DataFrame,
    opaque: pd.DataFrame,
    guided: pd.DataFrame | None,
    reached: float | None,
) -> pd.DataFrame:
    """What was asked for, what was measured, and whether that is it. All on the confirm half."""
    clean = labelled[labelled["noise"] == 0]
    harmed, harmed_clean = _harmed(labelled), _harmed(clean)
    over_mixbias = harmed_clean["ours"] / max(harmed_clean["mixbias"], TOLERANCE)
    asked = [
        ("average rank among seven methods", "<=", 1.9, average_ranks(labelled)["ours"]),
        *(
            (f"clean: gain/(best-base) less mixbias's, mean of {name}", ">", 0, _ahead(clean, unit))
            for name, unit in UNITS.items()
        ),
        ("clean: harmed, over mixbias's", "<=", 0.5, over_mixbias),
        *(
            (f"runs won against {rival}", ">=", least, _won(labelled, "ours", rival))
            for rival, least in LEAST_WON.items()
        ),
        ("harmed, guard_z = 1", "<=", 0.03, harmed["ours"]),
        ("harmed, guard_z = 1.64", "<=", 0, harmed["ours_z1.64"]),
        ("opaque: runs won against cma", ">=", 0.65, _won(opaque, "ours", "cma")),
        ("CPU seconds of a run on an MLP", "<", 1, _seconds_on_mlp(labelled)),
    ]
    if reached is not None:
        asked.append((f"gain at B = {FEW}, of that with most", ">=", 0.95, reached))
    if guided is not None:
        told = duel(_of(guided, "guided"), _of(guided, "unguided"), RUN)
        name = "guidance, on its own ground"
        asked += [
            (f"{name}: runs won", ">=", 0.65, _won(guided, "guided", "unguided")),
            (f"{name}: p over data sets", "<", 0.01, told["p"] if told["difference"] > 0 else 1.0),
        ]
    rows = {name: _held_to(sign, level, value) for name, sign, level, value in asked}
    return pd.DataFrame.from_dict(rows, orient="index")


def _ahead(runs: pd.DataFrame, unit: list[str]) -> float:
    """How far ours is ahead of mixbias in the mean of runs, of tasks, or of data sets."""
    means = runs.groupby([*unit, "method"])["share"].mean().unstack("method")
    return float((means["ours"] - means["mixbias"]).mean())


def reached(runs: pd.DataFrame) -> float | None:
    """Share of its gain with most observations that ours has with few, on its runs with all."""
    wide = _of(runs, "ours").pivot_table(index=RUN, columns="budget", values="share").dropna()
    return wide[FEW].mean() / wide.iloc[:, -1].mean() if FEW in wide.iloc[:, :-1] else None


def _held_to(sign: str, level: float, value: float) -> dict[str, str]:
    met = SIGNS[sign](value, level)
    asked = f"{sign} {level:g}"
    return {"asked": asked, "measured": f"{value:.3f}", "met": "yes" if met else "**no**"}


def _harmed(runs: pd.DataFrame) -> pd.Series:
    return (runs["gain"] < -TOLERANCE).groupby(runs["method"]).mean()


def _seconds_on_mlp(runs: pd.DataFrame) -> float:
    of_mlp = runs[~runs["dataset"].isin(IMAGES)]
    return float(_of(of_mlp, "ours")["cpu_seconds"].median())


def _won(runs: pd.DataFrame, ours: str, rival: str) -> float:
    """Share of the runs won, of those that are not tied."""
    told = duel(_of(runs, ours), _of(runs, rival), RUN)
    return told["won"] / max(told["won"] + told["lost"], 1)


def _of(runs: pd.DataFrame, method: str) -> pd.DataFrame:
    return runs[runs["method"] == method]


def budgets(runs: pd.DataFrame) -> pd.DataFrame:
    """Share of the possible gain, a row per run that has all (method, budget); empty for one B."""
    wide = runs.pivot_table(index=RUN, columns=["method", "budget"], values="share").dropna()
    return wide if runs["budget"].nunique() > 1 else wide.iloc[:0]
