"""Plots of the evidence; markers and line styles tell methods apart without colours."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import scikit_posthocs
from scipy.stats import friedmanchisquare

INK, OURS, OURS_TOO = "#555555", "#0072b2", "#56b4e9"  # Okabe and Ito's blues
LOOKS = {
    "ours": (OURS, "o-"),
    "mixbias": ("#d55e00", "s--"),
    "mixloss": ("#e69f00", "v--"),
    "bias": ("#009e73", "^:"),
    "cma": ("#cc79a7", "D:"),
}


def save(figure, path: Path) -> None:
    """Write a figure, and let go of it."""
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def critical_differences(shares: pd.DataFrame, path: Path) -> float:
    """Draw average ranks over tasks, and lines through those that do not differ.

    Parameters
    ----------
    shares : DataFrame
        Mean share of the possible gain, a row per task and a column per method.
    path : Path
        PNG to write.

    Returns
    -------
    float
        p of Friedman's test.
    """
    shares = shares.dropna().round(9)
    ranks = shares.rank(axis=1, ascending=False).mean()
    differ = scikit_posthocs.posthoc_nemenyi_friedman(shares)
    figure, ax = plt.subplots(figsize=(8, 3), layout="constrained")
    colours = {method: OURS if method.startswith("ours") else INK for method in shares}
    scikit_posthocs.critical_difference_diagram(
        ranks,
        differ,
        ax=ax,
        color_palette=colours,
        label_props={"fontsize": 9},
        crossbar_props={"color": "black", "linewidth": 2.5},
    )
    save(figure, path)
    return float(friedmanchisquare(*shares.T.to_numpy()).pvalue)


def budget_curves(means: pd.DataFrame, path: Path) -> None:
    """Draw the mean share of the possible gain over the budget."""
    figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for method, row in means.iterrows():
        colour, style = LOOKS[method]
        ax.plot(row.index, row, style, color=colour, label=method)
    ax.set(xscale="log", xlabel="metric observations", ylabel="gain / (best - base)")
    ax.set_xticks(means.columns, [f"{budget:g}" for budget in means.columns])
    ax.minorticks_off()
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(means), frameon=False)
    save(figure, path)


def gains_of_tasks(shares: pd.DataFrame, rivals: list[str], path: Path) -> None:
    """Draw how far ours gets on each task, beside some rivals.

    Parameters
    ----------
    shares : DataFrame
        Mean share of the possible gain, a row per task and a column per method.
    rivals : list of str
        Columns beside "ours".
    path : Path
        PNG to write.
    """
    order = shares.sort_values("ours").index
    figure, ax = plt.subplots(figsize=(8, 0.5 + 0.3 * len(order)), layout="constrained")
    for method, marker in zip(rivals, "sv^Dx*", strict=False):
        at, own = shares.loc[order, method], method.startswith("ours")
        look = {"color": OURS if own else INK, "mfc": OURS_TOO if own else "none"}
        ax.plot(at, range(len(order)), marker, ms=6 if own else 5, label=method, **look)
    ax.plot(shares.loc[order, "ours"], range(len(order)), "o", color=OURS, ms=7, label="ours")
    ax.set_yticks(range(len(order)), order)
    ax.axvline(0, color="black", lw=0.8)
    ax.set_xlabel("gain / (best - base) on test rows, mean of seeds")
    ax.grid(axis="y", lw=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right")
    save(figure, path)
