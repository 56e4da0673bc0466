"""How each kind of plot is drawn: told apart by colour, and without it by line and marker."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# Okabe and Ito's colours, which people who see few colours tell apart.
_BLUE, _SKY, _RED, _ORANGE, _GREEN = "#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73"
_GREY = "#595959"
_MARKERS = "os^Dv"
_MOST_CLASSES = 30
_GAP, _GUIDED_SHARE = 0.06, 0.7  # width of gap and guided steps, to that of explored ones
_SAME = 1e-12  # changes below this are rounding

_PHASES = {  # marker and colour of observations
    "initial": ("o", "black"),
    "explore": (".", _SKY),
    "guide": ("^", _RED),
    "shift": ("x", _GREEN),
    "judge": ("D", _BLUE),
}


def _draw_levels(ax, initial_score: float, best_score: float | None) -> None:
    ax.axhline(initial_score, color="black", ls="--", lw=1, label="as it came")
    if best_score is not None:
        ax.axhline(best_score, color=_BLUE, ls="-.", lw=1.4, label="returned, as judged")


def _legend_above(ax) -> None:
    """Points may be anywhere: keep off them."""
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "ncols": 3, "frameon": False}
    ax.legend(fontsize="small", **place)


# observations -----------------------------------------------------------------------------------


def trajectories(
    ax, *, step, trajectory, phase, score, predicted_score, initial_score, best_score, scorer, **_
) -> None:
    """Draw scores by step, explored ones to the left, guided ones to the right."""
    explored, guided = phase == "explore", phase == "guide"
    last = step[explored].max(initial=1)
    start, most = last * (1 + _GAP), step[guided].max(initial=1)
    stretch = _GUIDED_SHARE * last / most  # agents take fewer steps
    for number in np.unique(trajectory[explored]):
        on = explored & (trajectory == number)
        label = "explored" if number == trajectory[explored].min() else None
        x, y = np.append(0, step[on]), np.append(initial_score, score[on])
        ax.plot(x, y, ".-", color=_SKY, lw=0.9, ms=4, label=label)
    if guided.any():
        ax.axvline(start, color=_GREY, ls=":", lw=1)
        _draw_agents(ax, start + stretch * step, trajectory, guided, score, predicted_score)
    _draw_levels(ax, initial_score, best_score)
    ticks = [(at, f"{at:g}") for at in _round_steps(last)]
    if guided.any():
        ticks += [(start + stretch * at, f"{at:g}") for at in _round_steps(most)]
    ax.set_xticks([at for at, _ in ticks], [text for _, text in ticks])
    ax.set(xlabel="optimizer steps; guided agents from their start", ylabel=scorer)
    _legend_above(ax)


def _draw_agents(ax, x, trajectory, guided, score, predicted_score) -> None:
    known = guided & np.isfinite(predicted_score)
    errors = (score - predicted_score)[known]
    spread = float(np.sqrt(np.mean(errors**2))) if len(errors) else 0.0
    for k, number in enumerate(np.unique(trajectory[guided])):
        on, marker = guided & (trajectory == number), _MARKERS[k % len(_MARKERS)]
        first = k == 0
        label = "guided" if first else None
        ax.plot(x[on], score[on], color=_RED, marker=marker, ms=4, lw=1.4, label=label)
        guess = predicted_score[on]
        label = "predicted, ± its error" if first else None
        style = {"color": _GREY, "mfc": "white", "marker": marker, "ms": 4, "ls": "--", "lw": 0.9}
        ax.plot(x[on], guess, **style, label=label)
        ax.fill_between(x[on], guess - spread, guess + spread, color=_ORANGE, alpha=0.15, lw=0)


def _round_steps(last: int) -> np.ndarray:
    """Return a few round numbers from 0 to `last`, not too near the end."""
    unit = 10.0 ** np.floor(np.log10(max(last, 4) / 4))
    apart = next(m * unit for m in (1, 2, 5, 10) if last / (m * unit) <= 4)
    return np.arange(0, 0.95 * last, apart)


def budget(ax, *, number, phase, score, initial_score, best_score, scorer, **_) -> None:
    """Draw the best score so far, and every observation behind it."""
    for name, (marker, colour) in _PHASES.items():
        on = phase == name
        if on.any():
            ax.plot(number[on], score[on], ls="", marker=marker, ms=4, color=colour, label=name)
    best = np.maximum.accumulate(score)
    ax.step(number, best, where="post", color="black", lw=1.6, label="best so far, luck included")
    _draw_levels(ax, initial_score, best_score)
    ax.set(xlabel="metric observations", ylabel=scorer)
    _legend_above(ax)


# the guard --------------------------------------------------------------------------------------


def gain(ax, *, gains, gain, needed, verdict, scorer) -> None:
    """Draw the gain on each resample, the gain judged, and the guard's line."""
    if not len(gains):
        middle = {"ha": "center", "va": "center", "transform": ax.transAxes}
        ax.text(0.5, 0.5, "no gain was judged", **middle)
    else:
        ax.hist(gains, bins="sturges", color=_SKY, ec="white", label=f"{len(gains)} resamples")
        ax.plot(gains, np.zeros(len(gains)), "|", color="black", ms=9, clip_on=False, zorder=3)
        ax.margins(y=0.6)  # room for the legend
        ax.yaxis.get_major_locator().set_params(integer=True)
    ax.axvline(0, color="black", lw=1, label="as it came")
    if len(gains):
        ax.axvline(gain, color=_BLUE, lw=2.4, label=f"judged gain {gain:+.4f}")
    if needed is not None:
        ax.axvline(needed, color=_RED, ls="--", lw=2, label=f"guard's line {needed:+.4f}")
    ax.set(xlabel=f"gain in {scorer}", ylabel="resamples")
    ax.set_title(verdict, fontsize="medium", wrap=True)
    ax.legend(fontsize="small", loc="best")


# before and after -------------------------------------------------------------------------------


def calibration(ax, *, bins, of) -> None:
    """Draw how often what probabilities say is so."""
    ax.plot([0, 1], [0, 1], color=_GREY, ls=":", lw=1, label="calibrated")
    styles = (
        {"color": _GREY, "ls": "--", "marker": "o", "mfc": "white"},
        {"color": _BLUE, "ls": "-", "marker": "s"},
    )
    for (said, is_so, share), style, name in zip(bins, styles, ("before", "after"), strict=True):
        error = (share * np.abs(said - is_so)).sum()
        ax.plot(said, is_so, **style, lw=1.6, ms=6, label=f"{name} (error {error:.3f})")
    what = "the likeliest class" if of is None else f"class {of}"
    often = "share of right decisions" if of is None else "frequency of that class"
    ax.set(xlabel=f"mean probability of {what}", ylabel=often, aspect="equal")
    ax.legend(fontsize="small", loc="best")


def change(ax, *, scorer=None, queries=None, recalls=None, classes=None, counts=None) -> None:
    """Draw who gained and who lost."""
    if queries is None:
        _draw_classes(ax, recalls, classes, counts)
    else:
        _draw_queries(ax, queries, scorer)


def _draw_classes(ax, recalls, classes, counts) -> None:
    change = recalls[1] - recalls[0]
    shown = np.argsort(-np.abs(change), kind="stable")[:_MOST_CLASSES]
    shown = shown[np.argsort(change[shown], kind="stable")]
    rows = np.arange(len(shown))
    before, after, moved = recalls[0][shown], recalls[1][shown], change[shown]
    for name, on, marker, colour, line in (
        ("gained", moved > _SAME, ">", _BLUE, "-"),
        ("lost", moved < -_SAME, "<", _RED, "--"),
        ("the same", np.abs(moved) <= _SAME, "o", _GREY, "-"),
    ):
        if on.any():
            ax.hlines(rows[on], before[on], after[on], colors=colour, linestyles=line, lw=2)
            ax.plot(after[on], rows[on], ls="", marker=marker, color=colour, ms=8, label=name)
    style = {"ls": "", "marker": "o", "mfc": "white", "mec": _GREY, "ms": 6}
    ax.plot(before, rows, **style, label="before", zorder=3)
    names = [f"{classes[i]} ({counts[i]})" for i in shown]
    ax.set_yticks(rows, names)
    ax.set(xlabel="recall", ylabel="class (rows)", ylim=(-0.6, len(shown) - 0.4))
    if len(shown) < len(change):
        ax.set_title(f"the {len(shown)} of {len(change)} classes that changed most")
    ax.legend(fontsize="small", loc="best")


def _draw_queries(ax, queries, scorer) -> None:
    change = np.sort(np.where(np.abs(queries) > _SAME, queries, 0))[::-1]
    at = np.arange(len(change))
    for name, on, style in (
        ("gained", change > 0, {"color": _BLUE}),
        ("lost", change < 0, {"fc": "white", "ec": _RED, "hatch": "////"}),
    ):
        ax.fill_between(at, change, where=on, step="mid", **style, label=f"{on.sum()} {name}")
    ax.axhline(0, color="black", lw=1, label=f"{(change == 0).sum()} the same")
    ax.set(xlabel="queries, by change", ylabel=f"change in {scorer}")
    ax.legend(fontsize="small", loc="best")


DRAW: dict[str, Callable] = {
    "trajectories": trajectories,
    "budget": budget,
    "gain": gain,
    "calibration": calibration,
    "change": change,
}
