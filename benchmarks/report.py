"""What reports share: tables in markdown, and how runs are compared."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import wilcoxon

from benchmarks.metrics import best_score

TOLERANCE = 1e-9  # scores closer than this are a tie
HARM = 0.01
LEAST_HEADROOM = 0.01  # so that a loss next to the best possible score is not infinite


def with_share(runs: pd.DataFrame) -> pd.DataFrame:
    """Add each run's gain as a share of what is possible, and whether its metric ends at 1."""
    best = runs["metric"].map(best_score)
    headroom = (best - runs["base_score"]).clip(lower=LEAST_HEADROOM)
    return runs.assign(bounded=best == 1.0, share=runs["gain"] / headroom)


def duel(ours: pd.DataFrame, rival: pd.DataFrame, on: list[str]) -> dict[str, float]:
    """Compare two methods run by run and, tested, data set by data set.

    Parameters
    ----------
    ours, rival : DataFrame
        With columns ``task``, ``dataset``, ``test_score`` and ``share``.
    on : list of str
        Columns that say which runs belong together.

    Returns
    -------
    dict
        ``won``, ``tied`` and ``lost`` runs, ``tasks won`` and ``tasks lost``. Over data sets, which
        unlike tasks share no rows: the mean ``difference`` of shares, its standard error ``se``
        and ``p`` of Wilcoxon's signed rank test.
    """
    pairs = ours.merge(rival, on=on, suffixes=("", "_rival"))
    difference = pairs["test_score"] - pairs["test_score_rival"]
    shares = pairs["share"] - pairs["share_rival"]
    of_task = shares.groupby(pairs["task"]).mean()
    of_data = shares.groupby(pairs["dataset"]).mean()
    decided = of_data[of_data.abs() > TOLERANCE]
    won, lost = int((difference > TOLERANCE).sum()), int((difference < -TOLERANCE).sum())
    return {
        "won": won,
        "tied": len(pairs) - won - lost,
        "lost": lost,
        "tasks won": int((of_task > TOLERANCE).sum()),
        "tasks lost": int((of_task < -TOLERANCE).sum()),
        "difference": of_data.mean(),
        "se": of_data.std() / np.sqrt(len(of_data)),
        "p": wilcoxon(decided).pvalue if len(decided) else np.nan,
    }


def to_markdown(table: pd.DataFrame, first_column: str) -> str:
    """Format a frame as a markdown table.

    Examples
    --------
    >>> print(to_markdown(pd.DataFrame({"gain": ["+0.1"]}, index=["ours"]), "method"))
    | method | gain |
    |---|---|
    | ours | +0.1 |
    """
    lines = [[first_column, *table.columns], *table.reset_index().values.tolist()]
    rows = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    return "\n".join([rows[0], "|---" * len(lines[0]) + "|", *rows[1:]])
