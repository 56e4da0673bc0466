"""The journal: what scorers or people answered, on disk before the next question is asked.

A run is a function of its data, parameters, seed and of the answers it gets. So only the answers
are kept: the same run made again, with known answers read instead of asked for, comes to the same
point bit by bit, and goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sklearn
import torch

from sk_metricopt.exceptions import CheckpointError, CheckpointWarning

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
    import msvcrt

SCHEMA = 1
_NAME = "journal.jsonl"
_LOCK = "lock"
_LONGEST = 2**20  # bytes of a line
_LARGEST = 2**30  # bytes of a journal
_CHECKSUM = 16  # hex digits

# What is answered to each kind of question.
_FIELDS: dict[object, set[str]] = {
    "net": set(),
    "observation": {"score"},
    "again": {"score"},
    "tell": {"candidate", "score", "se", "entered"},
}

Key = tuple[str | int, ...]


class Journal:
    """Answers in a folder: a line each, with a checksum, appended and synced.

    The first line tells which run the answers belong to. Use as a context manager: the folder is
    locked until it is closed.

    Parameters
    ----------
    folder : str or PathLike
        Made if it does not exist.
    owner : str
        Whose `checkpoint_dir` it is, for errors.

    Attributes
    ----------
    records : list of dict
        As they were found, the first line aside.
    """

    def __init__(self, folder: str | os.PathLike, owner: str):
        self._owner = owner
        self._folder = Path(folder)
        self._path = self._folder / _NAME
        self._file: int | None = None
        self._lock: int | None = None
        self._changed_environment: list[str] = []
        with self._naming("be a folder that can be written to"):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._take_lock()
            self._header, self.records = self._read()
        except BaseException:
            self.close()
            raise
        self._known = {_key(r): r for r in self.records}

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder."""
        for descriptor in (self._file, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._file = self._lock = None

    @property
    def seed(self) -> int | None:
        """Seed of the run that the answers belong to; None in a new folder."""
        return None if self._header is None else self._header["seed"]

    def bind(self, identity: dict[str, str], seed: int) -> None:
        """Say which run this is; it must be the one the answers belong to.

        Raises
        ------
        CheckpointError
            If it is another one; names what differs.
        """
        environment = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "machine": platform.machine(),
            "threads": str(torch.get_num_threads()),
        }
        ours = {"schema": SCHEMA, "seed": seed, "identity": identity, "environment": environment}
        if self._header is None:
            self._header = ours
            self._rewrite()
            self._open()
            return
        theirs = self._header["identity"] | {"seed": str(self._header["seed"])}
        mine = identity | {"seed": str(seed)}
        names = sorted(theirs.keys() | mine.keys())
        different = [name for name in names if theirs.get(name) != mine.get(name)]
        if different:
            told = "; ".join(
                f"{name} is {mine.get(name, 'not given')}, there it was "
                f"{theirs.get(name, 'not given')}"
                for name in different
            )
            raise self._error(
                "be the folder of this very run, or a new one",
                f"{self._folder}, the checkpoint of another run: {told}",
                "Pass what that run was given, or another folder.",
            )
        self._changed_environment = [
            f"{name} is {environment.get(name)}, it was {value}"
            for name, value in self._header["environment"].items()
            if environment.get(name) != value
        ]
        if self._damaged:
            self._rewrite()
        self._open()

    def recall(self, key: Key, digest: str) -> dict | None:
        """Return the answer of an earlier run, None if it has to be asked for.

        Parameters
        ----------
        key : tuple
            Which question.
        digest : str
            Of what the question is about.

        Raises
        ------
        CheckpointError
            If the answer is about something else: this machine computed otherwise.
        """
        record = self._known.get(key)
        if record is None or record["of"] == digest:
            return record
        changed = "; ".join(self._changed_environment) or "nothing that is known of"
        raise self._error(
            "hold answers that this run can go on from",
            f"{self._folder}, whose answer {' '.join(map(str, key))} is about another candidate: "
            f"the same run came to other numbers here (what changed: {changed})",
            "Go on where it was started, or pass a new folder; nothing in the old one is changed. "
            "A net whose training cannot be repeated bit by bit, on a GPU for example, is best "
            "trained first and passed inside a FrozenEstimator.",
        )

    def append(self, key: Key, digest: str, answer: dict, sync: bool = True) -> None:
        """Write one answer down; with `sync` it outlives the machine, else the process.

        Raises
        ------
        CheckpointError
            If that fails, on a full disk for example. What was written before is still there.
        """
        record = {"key": list(key), "of": digest, **answer}
        self._known[key] = record
        if self._file is None:
            raise ValueError("a journal is bound to a run before anything is written")
        before = os.fstat(self._file).st_size
        try:
            _write(self._file, _line(record))
            if sync:
                os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, before)
            raise self._unwritten(error) from error

    # the file -----------------------------------------------------------------------------------

    def _rewrite(self) -> None:
        """Write what is known so that it is there whole, or what was there before still is."""
        with self._naming("be a folder that can be written to"):
            draft = self._path.with_suffix(".new")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                for record in [self._header, *self.records]:
                    _write(descriptor, _line(record))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(draft, self._path)
            _sync_folder(self._folder)

    def _open(self) -> None:
        with self._naming("be a folder that can be written to"):
            self._file = os.open(self._path, os.O_RDWR | os.O_APPEND)

    def _read(self) -> tuple[dict | None, list[dict]]:
        """Return the first line and the records that can be read."""
        self._damaged = False
        if not self._path.exists():
            return None, []
        with self._naming("hold a journal that can be read"):
            if not self._path.is_file():  # a pipe would never end
                raise OSError(f"its {_NAME} is no file")
            size = self._path.stat().st_size
            if size > _LARGEST:
                raise OSError(f"{size} bytes are more than a journal has")
            with self._path.open("rb") as file:
                lines = [_parsed(line) for line in iter(lambda: file.readline(_LONGEST), b"")]
        header, *lines = lines or [None]
        if header is None or not _is_header(header):
            raise self._error(
                "hold a journal of this version",
                f"{self._folder}, whose {_NAME} starts with something else",
                "Pass another folder.",
            )
        records = [line for line in lines if line is not None and _is_record(line)]
        self._damaged = len(records) < len(lines)
        if self._damaged:
            warnings.warn(
                f"{len(lines) - len(records)} of {len(lines)} records of the checkpoint in "
                f"{self._folder} cannot be read; they are asked for again. The rest is kept.",
                CheckpointWarning,
                stacklevel=2,
            )
        return header, records

    def _take_lock(self) -> None:
        try:
            if fcntl is not None:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                msvcrt.locking(self._lock, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise self._error(
                "be a folder that nobody else is using",
                f"{self._folder}, which another fit has open",
                "Wait for that one to end, or pass another folder.",
            ) from error

    # errors -------------------------------------------------------------------------------------

    def _error(self, expected: str, got: str, next_step: str) -> CheckpointError:
        return CheckpointError(
            f"The 'checkpoint_dir' parameter of {self._owner} must {expected}. Got {got}. "
            f"{next_step}"
        )

    def _unwritten(self, error: OSError) -> CheckpointError:
        return self._error(
            "be a folder that can be written to",
            f"{self._folder} ({error.strerror or error})",
            "What had been written is still there: make room, then call fit again to go on.",
        )

    @contextlib.contextmanager
    def _naming(self, expected: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            got = f"{self._folder} ({error.strerror or error})"
            raise self._error(expected, got, "Pass another folder.") from error


def number(value: float | None) -> float | None:
    """Return a score as JSON has it, and back: what failed is null there and NaN here."""
    if value is None:
        return math.nan
    return float(value) if math.isfinite(value) else None


def _key(record: dict) -> Key:
    return tuple(record["key"])


def _line(record: dict | None) -> bytes:
    text = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
    return _checksum(text) + b" " + text + b"\n"


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:_CHECKSUM].encode()


def _parsed(line: bytes) -> dict | None:
    """Return what a line says, None if it is not what was written."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != _checksum(text):
        return None
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def _is_header(header: dict) -> bool:
    return (
        header.get("schema") == SCHEMA
        and isinstance(header.get("seed"), int)
        and all(_is_table(header.get(name)) for name in ("identity", "environment"))
    )


def _is_table(table: object) -> bool:
    return isinstance(table, dict) and all(isinstance(value, str) for value in table.values())


def _is_record(record: dict) -> bool:
    key = record.get("key")
    return (
        isinstance(key, list)
        and bool(key)
        and all(isinstance(part, str | int) for part in key)
        and isinstance(record.get("of"), str)
        and _FIELDS.get(key[0]) == record.keys() - {"key", "of"}
        and all(_is_answer(name, record[name]) for name in _FIELDS[key[0]])
    )


def _is_answer(name: str, value: object) -> bool:
    if name in ("candidate", "entered"):
        return isinstance(value, int)
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
