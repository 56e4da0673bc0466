"""Tasks: what a candidate answers on the validation rows, and what is asked of the answers."""

from sk_metricopt._tasks._base import Task
from sk_metricopt._tasks._classification import ClassificationTask
from sk_metricopt._tasks._retrieval import RetrievalTask, search_resampling
from sk_metricopt._tasks._search import RetrieverScoring

__all__ = ["ClassificationTask", "RetrievalTask", "RetrieverScoring", "Task", "search_resampling"]
