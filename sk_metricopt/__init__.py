"""Finetune torch classifiers towards any black-box metric, as a scikit-learn estimator."""

from sk_metricopt._finetuner import MetricOptFinetuner

__all__ = ["MetricOptFinetuner", "__version__"]

__version__ = "0.1.0.dev0"
