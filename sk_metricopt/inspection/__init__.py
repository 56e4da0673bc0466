"""What finetuning did to a model, on rows that had no part in it."""

from sk_metricopt._results import FitReport
from sk_metricopt.inspection._report import FinetuningReport, finetuning_report

__all__ = ["FinetuningReport", "FitReport", "finetuning_report"]
