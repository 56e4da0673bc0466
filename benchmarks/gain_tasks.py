"""The tasks of the evidence: those of `benchmarks.tasks`, and more kinds of metrics and trouble.

No data set is in both halves: what is chosen on the design half has not met the data of the other.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.tasks import TASKS, Task

GAIN_TASKS = (
    *TASKS,
    Task("adult", "adult_worst_sex_f1", "design"),
    Task("adult", "adult_equalised_odds", "design"),
    Task("phoneme", "auroc", "design"),
    Task("optdigits", "macro_f1", "design", noise=0.2),
    Task("digits", "macro_f1", "design", noise=0.2),
    Task("page_blocks", "macro_f1", "design"),
    Task("cifar10_small", "g_mean", "design", slow=True),
    Task("spambase", "auroc", "confirm"),
    Task("spambase", "mail_worst_capitals_f1", "confirm"),
    Task("spambase", "mail_cost", "confirm"),
    Task("breast_cancer", "precision_at_recall_95", "confirm"),
    Task("penbased", "macro_f1", "confirm", noise=0.2),
    Task("kr_vs_k", "qwk", "confirm", min_class_rows=150),
    Task("hypothyroid", "thyroid_worst_sex_f1", "confirm", min_class_rows=10),
    Task("winequality_red", "macro_f1", "confirm"),
)


@dataclass(frozen=True)
class GuidanceTask:
    """A task, and the ground on which guidance is to show what it is worth.

    Parameters
    ----------
    task : Task
    ground : str
        Why guidance might pay here.
    opaque : bool, default=False
        Whether validation labels reach the scorer and nothing else.
    budget : int, default=150
        Metric observations.
    deep : bool, default=False
        Whether adapters sit on all layers of a CNN instead of its last stage.
    """

    task: Task
    ground: str
    opaque: bool = False
    budget: int = 150
    deep: bool = False

    @property
    def dataset(self) -> str:
        return self.task.dataset

    @property
    def half(self) -> str:
        return self.task.half

    @property
    def name(self) -> str:
        return f"{self.ground}: {self.task.name}"


def _named(name: str) -> Task:
    return next(task for task in GAIN_TASKS if task.name == name)


GUIDANCE_TASKS = (
    GuidanceTask(_named("adult/f2"), "opaque", opaque=True),
    GuidanceTask(_named("yeast/g_mean"), "opaque", opaque=True),
    GuidanceTask(_named("page_blocks/page_cost"), "few observations", budget=25),
    GuidanceTask(_named("optdigits/macro_f1/0.4"), "few observations", budget=25),
    GuidanceTask(_named("adult/adult_worst_sex_f1"), "worst group"),
    GuidanceTask(Task("phoneme", "g_mean", "design", shift="labels"), "label shift"),
    GuidanceTask(Task("mammography", "f1", "design", shift="covariates"), "covariate shift"),
    GuidanceTask(_named("cifar10_small/g_mean"), "deep adapters", deep=True),
    GuidanceTask(_named("spambase/f2/0.3"), "opaque", opaque=True),
    GuidanceTask(_named("winequality_red/qwk"), "opaque", opaque=True),
    GuidanceTask(_named("kr_vs_k/g_mean"), "opaque", opaque=True),
    GuidanceTask(_named("penbased/macro_f1/0.4"), "opaque", opaque=True),
    GuidanceTask(_named("hypothyroid/thyroid_cost"), "few observations", budget=25),
    GuidanceTask(_named("spambase/f1"), "few observations", budget=25),
    GuidanceTask(_named("penbased/macro_f1/0.2"), "few observations", budget=25),
    GuidanceTask(_named("spambase/mail_worst_capitals_f1"), "worst group"),
    GuidanceTask(_named("hypothyroid/thyroid_worst_sex_f1"), "worst group"),
    GuidanceTask(_named("spambase/mail_cost"), "cost by row"),
    GuidanceTask(Task("spambase", "f1", "confirm", shift="covariates"), "covariate shift"),
    GuidanceTask(Task("penbased", "macro_f1", "confirm", shift="labels"), "label shift"),
    GuidanceTask(Task("winequality_red", "macro_f1", "confirm", shift="labels"), "label shift"),
    GuidanceTask(_named("bccd_cells/macro_f1/0.3"), "deep adapters", deep=True),
)
