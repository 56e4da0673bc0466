"""What `benchmarks.throughput` measures: nets and whole Pipelines, and the ways to run each."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import numpy as np
import onnxruntime
import pandas as pd
import torch
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.datasets import make_classification
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from skorch import NeuralNetClassifier
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import MLP, SmallCNN
from benchmarks.tasks import data_home
from sk_metricopt import MetricOptFinetuner
from sk_metricopt.export import OnnxPredictor, to_onnx

BATCHES = (1, 32, 1024, 16384)
CNN_BATCHES = BATCHES[:3]  # eager activations of 16384 images take gigabytes
N_FEATURES, N_TRAIN, BUDGET = 57, 4000, 20
LIMIT = "limit: "  # begins the name of what no answer can be faster than
GEMM_SIZES = {"cpu": (512, 2048), "cuda": (2048, 8192)}  # which is faster depends on the cores
COPY_BYTES = 2**28
CUDA_OPTIONS = {"use_tf32": "0"}  # torch multiplies in full float32 unless asked


@dataclass(frozen=True)
class Way:
    """One way to answer a batch, or why it is not to be measured.

    Attributes
    ----------
    run : callable or None
        Answers the batch once, and returns when the answer is there.
    why_not : str
        Why there is no `run`.
    compile_seconds : float
        What was spent before the first answer, where that is worth telling.
    limits : tuple of str
        The ways, which compute and copy as fast as can be, that this one is held to.
    flops, n_bytes : float
        What a run has to compute and to move at the least.
    tolerance : float
        How far answers may be from those of the reference.
    """

    run: Callable[[], object] | None = None
    why_not: str = ""
    compile_seconds: float = np.nan
    limits: tuple[str, ...] = ()
    flops: float = np.nan
    n_bytes: float = np.nan
    tolerance: float = 1e-5


@contextmanager
def sessions_of(n_threads: int) -> Iterator[None]:
    """Have onnxruntime open sessions of so many threads: `OnnxPredictor` takes its default."""
    make = onnxruntime.SessionOptions

    def limited() -> onnxruntime.SessionOptions:
        options = make()
        options.intra_op_num_threads = n_threads
        return options

    with patch.object(onnxruntime, "SessionOptions", limited):
        yield


def no_cuda() -> str:
    """Why nothing can be measured on a GPU, empty if it can."""
    if not torch.cuda.is_available():
        return "no GPU"
    available = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    return "" if available else "onnxruntime without CUDA"


# Nets -------------------------------------------------------------------------------------------


class Net:
    """A net with weights as they are drawn: speed does not depend on them.

    Parameters
    ----------
    name : str
    module : callable
        Takes the number of inputs and of classes.
    row_shape : tuple of int
    n_classes : int
    batches : tuple of int
    """

    reference = "torch eager"
    targets: dict[int, float] = {}

    def __init__(self, name, module, row_shape, n_classes, batches):
        self.name, self.batches = name, batches
        torch.manual_seed(0)
        self.net = NeuralNetClassifier(
            module,
            module__n_inputs=row_shape[0],
            module__n_classes=n_classes,
            criterion=nn.CrossEntropyLoss,
            classes=list(range(n_classes)),
        ).initialize()
        self.module = nn.Sequential(self.net.module_, nn.Softmax(-1)).eval()
        rng = np.random.default_rng(0)
        self.X = rng.standard_normal((max(batches), *row_shape), dtype=np.float32)
        self.files = {precision: self._exported(precision) for precision in ("fp32", "fp16")}
        self.adaptable, self.n_params = self._adaptable(n_classes)

    def _exported(self, precision: str) -> bytes:
        model = to_onnx(self.net, self.X[:64], outputs=["probabilities"], precision=precision)
        return model.SerializeToString()

    def _adaptable(self, n_classes: int) -> tuple[bytes, int]:
        """Return a file with adapter parameters as an input, and how many there are."""
        y = np.arange(200) % n_classes
        X = np.random.default_rng(1).standard_normal((200, *self.X.shape[1:]), dtype=np.float32)
        finetuner = MetricOptFinetuner(
            FrozenEstimator(self.net),
            scoring="accuracy",
            adapter="film",
            max_observations=4,
            random_state=0,
        ).fit(X, y)
        model = to_onnx(finetuner, X[:64], outputs=["probabilities"], adapter_input=True)
        return model.SerializeToString(), len(finetuner.adapter_params_)

    def ways(self, batch: int, n_threads: int) -> dict[str, Way]:
        """Return ways to probabilities of `batch` rows, the reference first, by their names."""
        X = self.X[:batch]
        fastest = _limits("cpu")
        limits = {"limits": tuple(fastest), **self._least(X)}
        with sessions_of(n_threads):
            predictor, halved = (OnnxPredictor(file) for file in self.files.values())
            session, adaptable = _session(self.files["fp32"]), _session(self.adaptable)
        zeros = np.zeros(self.n_params, dtype=np.float32)  # of which the net is as it was
        self.net.set_params(batch_size=batch)  # skorch makes batches of 128 otherwise
        x = torch.from_numpy(X)
        runs = {
            self.reference: partial(_eager, self.module, x),
            "skorch predict_proba": partial(self.net.predict_proba, X),
            "onnxruntime session": lambda: session.run(["probabilities"], {"X": X})[0],
            "onnxruntime session, adapter as an input": lambda: adaptable.run(
                ["probabilities"], {"X": X, "adapter": zeros}
            )[0],
            "OnnxPredictor.predict_proba": partial(predictor.predict_proba, X),
            "OnnxPredictor.run_tensors": lambda: predictor.run_tensors(x)["probabilities"],
        }
        ways = {name: Way(run, **limits) for name, run in runs.items()}
        ways["torch.compile"] = _compiled(self.module, x, limits)
        ways["fp16 file, OnnxPredictor.predict_proba"] = Way(
            partial(halved.predict_proba, X), tolerance=5e-3, **limits
        )
        return ways | fastest | self._on_cuda(X, limits)

    def _least(self, X: np.ndarray) -> dict[str, float]:
        """Return what a run has to compute, 2 for a multiplication and addition, and to move."""
        x = torch.from_numpy(X)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            answer = self.module(x)
        parameters = sum(p.nbytes for p in self.module.parameters())
        return {
            "flops": counter.get_total_flops(),
            "n_bytes": parameters + x.nbytes + answer.nbytes,
        }

    def _on_cuda(self, X: np.ndarray, limits: dict) -> dict[str, Way]:
        """Return ways on a GPU: tensors are there and stay there, arrays go there and back."""
        if reason := no_cuda():
            names = ["torch eager", "torch eager fp16", "torch.compile"]
            for precision in self.files:
                runs = ("predict_proba", "run_tensors", "run_tensors, CUDA graph")
                names += [f"onnxruntime {precision}, {run}" for run in runs]
            return {f"CUDA: {name}": Way(why_not=reason) for name in names}
        x = torch.from_numpy(X).cuda()
        module = copy.deepcopy(self.module).cuda()
        halved = copy.deepcopy(module).half()
        full, half = _limits("cuda", "fp32"), _limits("cuda", "fp16")
        on_full = limits | {"limits": tuple(full), "tolerance": 1e-4}
        on_half = limits | {"limits": tuple(half), "tolerance": 5e-3}
        ways = {
            "CUDA: torch eager": Way(partial(_eager, module, x), **on_full),
            "CUDA: torch eager fp16": Way(partial(_eager, halved, x.half()), **on_half),
            "CUDA: torch.compile": _compiled(module, x, on_full),
        }
        for (precision, file), of in zip(self.files.items(), (on_full, on_half), strict=True):
            predictor = OnnxPredictor(file, device="cuda", provider_options=CUDA_OPTIONS)
            replaying = OnnxPredictor(
                file,
                device="cuda",
                provider_options={**CUDA_OPTIONS, "enable_cuda_graph": "1"},
                batch_size=len(X),
            )
            name = f"CUDA: onnxruntime {precision}, "
            ways[f"{name}predict_proba"] = Way(partial(predictor.predict_proba, X), **of)
            ways[f"{name}run_tensors"] = Way(partial(_on_device, predictor, x), **of)
            ways[f"{name}run_tensors, CUDA graph"] = Way(partial(_on_device, replaying, x), **of)
        return ways | full | half


def _session(content: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that the default of an input is no constant
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _eager(module: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        answer = module(x)
    _wait(x)
    return answer


def _on_device(predictor: OnnxPredictor, x: Tensor) -> Tensor:
    answer = predictor.run_tensors(x)["probabilities"]
    _wait(x)
    return answer


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


def _compiled(module: nn.Module, x: Tensor, limits: dict) -> Way:
    """Compile for one batch size, with nothing that an earlier run has left on the disk."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself, and that caches are off
        compiled = torch.compile(copy.deepcopy(module), dynamic=False)
        try:
            with torch._inductor.config.patch(force_disable_caches=True):
                _eager(compiled, x)
        except torch._dynamo.exc.TorchDynamoException as exc:  # such as where there is no compiler
            return Way(why_not=f"{type(exc).__name__} when compiled")
    return Way(partial(_eager, compiled, x), "", time.perf_counter() - start, **limits)


def _limits(device: str, precision: str = "fp32") -> dict[str, Way]:
    """Return large products and a large copy: what a machine can at most."""
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=device)
    copying = partial(_duplicate, source, torch.empty_like(source))
    ways = {f"{device} {precision} copy": Way(copying, n_bytes=2.0 * COPY_BYTES)}
    for size in GEMM_SIZES[device]:
        factor = torch.randn(size, size).to(device, dtype)
        product = torch.empty_like(factor)
        run = partial(_multiply, factor, product)
        ways[f"{device} {precision} GEMM {size}"] = Way(run, flops=2.0 * size**3)
    return {f"{LIMIT}{name}": way for name, way in ways.items()}


def _multiply(factor: Tensor, product: Tensor) -> None:
    torch.mm(factor, factor, out=product)
    _wait(factor)


def _duplicate(source: Tensor, target: Tensor) -> None:
    target.copy_(source)
    _wait(source)


# Pipelines --------------------------------------------------------------------------------------


class Pipe:
    """A fitted Pipeline, and rows for it.

    Parameters
    ----------
    name : str
    pipeline : Pipeline
        Fitted.
    X : ndarray or DataFrame
    batches : tuple of int
    """

    reference = "Pipeline.predict"
    targets = {1: 5.0, 1024: 2.0}  # how many times as fast as the reference, on a CPU

    def __init__(self, name: str, pipeline: Pipeline, X, batches: tuple[int, ...]):
        self.name, self.batches, self.pipeline, self.X = name, batches, pipeline, X
        self.file = to_onnx(pipeline, X[:500]).SerializeToString()

    def ways(self, batch: int, n_threads: int) -> dict[str, Way]:
        """Return ways to labels of `batch` rows, the reference first, by their names."""
        X = self.X[:batch]
        with sessions_of(n_threads):
            predictor, session = OnnxPredictor(self.file), _session(self.file)
        feed = predictor._inputs.feed(X)
        ways = {
            self.reference: Way(partial(self.pipeline.predict, X)),
            "onnxruntime session": Way(lambda: session.run(["label"], feed)[0]),
            "OnnxPredictor.predict": Way(partial(predictor.predict, X)),
        }
        return ways | {"CUDA: OnnxPredictor.predict": self._on_cuda(X)}

    def _on_cuda(self, X) -> Way:
        if reason := no_cuda():
            return Way(why_not=reason)
        predictor = OnnxPredictor(self.file, device="cuda", provider_options=CUDA_OPTIONS)
        return Way(partial(predictor.predict, X))


def numeric(batches: tuple[int, ...] = BATCHES) -> Pipe:
    """Return a scaler and a net for an array of numbers."""
    n_rows = N_TRAIN + max(batches)
    X, y = make_classification(n_rows, N_FEATURES, n_informative=10, random_state=0)
    X = X.astype(np.float32)
    pipeline = make_pipeline(StandardScaler(), _finetuner(N_FEATURES))
    pipeline.fit(X[:N_TRAIN], y[:N_TRAIN])
    return Pipe(f"StandardScaler, MLP 64-64, {N_FEATURES} numbers", pipeline, X, batches)


def census(batches: tuple[int, ...] = BATCHES) -> Pipe:
    """Return imputers, a scaler, an encoder and a net for Adult as it was published."""
    table = pd.read_csv(data_home() / "adult_raw.csv.gz", na_values="?")
    y = (table.pop("income") == ">50K").to_numpy().astype(int)
    train = (table.pop("split") == "train").to_numpy()
    X, y = table[train][:N_TRAIN], y[train][:N_TRAIN]
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    encoder = OneHotEncoder(sparse_output=False, handle_unknown="ignore")
    words = make_pipeline(SimpleImputer(strategy="most_frequent"), encoder)
    choice = ColumnTransformer(
        [
            ("numbers", numbers, make_column_selector(dtype_include="number")),
            ("words", words, make_column_selector(dtype_exclude="number")),
        ]
    )
    n_inputs = choice.fit_transform(X).shape[1]
    pipeline = make_pipeline(choice, _finetuner(n_inputs)).fit(X, y)
    rows = table.sample(max(*batches, 500), random_state=0)
    name = f"ColumnTransformer, MLP 64-64, {len(table.columns)} columns of Adult"
    return Pipe(name, pipeline, rows, batches)


def _finetuner(n_inputs: int) -> MetricOptFinetuner:
    net = NeuralNetClassifier(
        MLP,
        module__n_inputs=n_inputs,
        module__n_classes=2,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=1e-3,
        max_epochs=3,
        train_split=None,
        verbose=0,
    )
    return MetricOptFinetuner(net, scoring="f1", max_observations=BUDGET, random_state=0)


def mlp(batches: tuple[int, ...] = BATCHES) -> Net:
    """Return the MLP on a row of numbers."""
    return Net(f"MLP 64-64, {N_FEATURES} numbers", MLP, (N_FEATURES,), 2, batches)


def cnn(batches: tuple[int, ...] = CNN_BATCHES) -> Net:
    """Return the small CNN on colour images."""
    return Net("CNN, 3 x 32 x 32", SmallCNN, (3, 32, 32), 10, batches)


SUBJECTS = {"mlp": mlp, "cnn": cnn, "numeric": numeric, "census": census}
