"""The door of estimators to export, which opens when it is asked for."""

from __future__ import annotations

from sklearn.utils.validation import check_is_fitted


class OnnxMixin:
    """Methods of estimators that can be exported, and what skl2onnx looks for in them."""

    def export_onnx(self, path, X=None, **options):
        """Write one ONNX file that decides, or embeds, as this estimator does.

        Parameters
        ----------
        path : str or path-like
            File to write.
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
            Rows on which the file's labels and probabilities, or embeddings, are compared with
            this estimator's before it is written.
        **options : dict
            Passed to `sk_metricopt.export.to_onnx`.

        Returns
        -------
        onnx.ModelProto
        """
        from sk_metricopt.export import to_onnx

        check_is_fitted(self)
        return to_onnx(self, X, path, **options)

    def onnx_parser(self):
        """Return what names the outputs of the graph; called by skl2onnx.

        Returns
        -------
        callable
        """
        from sk_metricopt.export._register import parser_of

        return parser_of(self)

    def onnx_shape_calculator(self):
        """Return what tells types and shapes of these outputs; called by skl2onnx.

        Returns
        -------
        callable
        """
        from sk_metricopt.export._register import set_types_of

        return set_types_of

    def onnx_converter(self):
        """Return what writes the graph; called by skl2onnx.

        Returns
        -------
        callable
        """
        from sk_metricopt.export._register import convert_estimator

        return convert_estimator
