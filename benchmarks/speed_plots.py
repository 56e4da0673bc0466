"""Plots of the speed suite; colours and line styles tell apart without each other."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

PLAIN_TICKS = 1000  # up to which the values that were measured are ticks

PANELS = {  # what varies in a task
    "observations-params": "adapter parameters",
    "observations-rows": "validation rows",
    "observations-phi": "J, φ evaluated together",
    "observations-cnn": "J, φ of a CNN",
    "observations-classes": "classes",
}
PARTS = {  # and how each is filled: Okabe and Ito's colours
    "steps": ("#0072b2", ""),
    "scorer": ("#d55e00", "//"),
    "value function": ("#009e73", ".."),
    "evaluation": ("#f0e442", ""),
    "preparation": ("#cc79a7", "xx"),
    "other": ("#999999", ""),
}
LOOKS = {
    "ours": ("#0072b2", "o-"),
    "fit": ("#0072b2", "o-"),
    "loop": ("#d55e00", "s--"),
    "equal gradient steps": ("#d55e00", "s--"),
    "bare loop": ("#555555", "^:"),
    "equal optimizer steps": ("#555555", "^:"),
}


def table_of(results: pd.DataFrame, task: str, quantity: str, index: str = "value") -> pd.DataFrame:
    """Return a quantity of a task, one column per way, in the order of the rows."""
    rows = results[(results["task"] == task) & (results["quantity"] == quantity)]
    return rows.pivot_table(index=index, columns="way", values="amount", sort=False)


def fixed_in(results: pd.DataFrame, task: str) -> str:
    """Say what a task is about, and what does not vary in it."""
    rows = results[results["task"] == task]
    parts = [rows["subject"].iloc[0]]
    for column, text in {
        "n_rows": "{:,.0f} rows",
        "n_phi": "J = {:.0f}",
        "budget": "B = {:.0f}",
    }.items():
        if rows[column].nunique() == 1:
            parts.append(text.format(rows[column].iloc[0]))
    return ", ".join(parts)


def _curves(axes: Axes, table: pd.DataFrame, ways: tuple[str, ...], x: str) -> None:
    for way in ways:
        colour, style = LOOKS[way]
        axes.loglog(table.index, table[way], style, color=colour, label=way, ms=5)
    axes.set(xlabel=x)
    axes.grid(which="major", color="#dddddd", lw=0.6)
    if table.index.max() <= PLAIN_TICKS:
        axes.set_xticks(table.index)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
    least, most = np.log10([table[list(ways)].min().min(), table[list(ways)].max().max()])
    axes.set_ylim(10 ** np.floor(least - 0.05), 10 ** np.ceil(most + 0.05))  # whole decades


def draw_fit(results: pd.DataFrame, path: Path) -> None:
    """Draw seconds of a fit by budget and by validation rows."""
    figure, both = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
    names = {"fit-budget": "observations", "fit-rows": "validation rows"}
    for axes, (task, name) in zip(both, names.items(), strict=True):
        table = table_of(results, task, "seconds per fit")
        _curves(axes, table, ("fit", "equal gradient steps", "equal optimizer steps"), name)
        axes.set_title(fixed_in(results, task), fontsize=9)
    both[0].set(ylabel="CPU seconds")
    both[1].legend(fontsize=9, loc="upper left")
    figure.savefig(path, dpi=140)


def draw_profile(results: pd.DataFrame, path: Path) -> None:
    """Draw the shares of the parts of each fit, one bar above the other."""
    seconds = table_of(results, "profile", "seconds per fit", index="subject")
    labels = [f"{subject}\n{total:.1f} s" for subject, total in seconds["total"].items()]
    figure, axes = plt.subplots(figsize=(9, 0.7 * len(seconds) + 1.4), layout="constrained")
    left = pd.Series(0.0, index=seconds.index)
    for part, (colour, hatch) in PARTS.items():
        share = 100 * seconds[part] / seconds["total"]
        style = {"color": colour, "hatch": hatch, "edgecolor": "white", "label": part}
        axes.barh(labels, share, left=left, **style)
        left += share
    axes.invert_yaxis()
    axes.set(xlabel="% of the CPU seconds of a fit, 150 observations", xlim=(0, 100))
    figure.legend(loc="outside upper center", ncols=len(PARTS), fontsize=9)
    figure.savefig(path, dpi=140)


def draw_growth(
    results: pd.DataFrame, quantity: str, ways: tuple[str, ...], unit: str, path: Path
) -> None:
    """Draw a quantity against all that grows; of seconds, how many in one."""
    figure, grid = plt.subplots(2, 3, figsize=(9, 5.6), layout="constrained")
    for axes, (task, name) in zip(grid.flat, PANELS.items(), strict=False):
        table = table_of(results, task, quantity)
        _curves(axes, 1 / table if quantity.startswith("seconds") else table, ways, name)
        axes.set_title(fixed_in(results, task).replace(", adapter_targets=", " "), fontsize=9)
    for axes in grid[:, 0]:
        axes.set(ylabel=unit)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    grid[1, 2].axis("off")
    grid[1, 2].legend(handles, labels, loc="center")
    figure.savefig(path, dpi=140)


def draw_all(results: pd.DataFrame, folder: Path) -> None:
    """Write all plots."""
    matplotlib.use("agg")
    draw_fit(results, folder / "speed_fit.png")
    draw_profile(results, folder / "speed_profile.png")
    draw_growth(
        results,
        "seconds per observation",
        ("ours", "loop", "bare loop"),
        "observations per CPU second",
        folder / "speed_observations.png",
    )
    draw_growth(results, "peak MiB", ("ours", "loop"), "peak MiB", folder / "speed_memory.png")
    plt.close("all")
