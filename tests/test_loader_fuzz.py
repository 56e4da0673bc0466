"""Files that were damaged or made to harm: refused by name or loaded, and nothing else happens."""

from __future__ import annotations

import collections
import json
import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from sk_metricopt.export import OnnxPredictor
from tests import loader_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")

ROOT = Path(__file__).parents[1]
LIMIT = 20  # seconds for one file
MOST_MB = 1000  # that one file may take


class Worker:
    """A process that loads files; a new one after each that ends it."""

    def __init__(self, warm_up):
        self.warm_up = warm_up
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def load(self, subject, path):
        """Return what became of a file: 'loaded', 'refused', 'unnamed', 'hang' or 'crash'."""
        if self.process is None:
            self.start()
        self.process.stdin.write(f"{subject}\t{path}\n".encode())
        self.process.stdin.flush()
        answer = self.answer(LIMIT)
        if answer:
            return json.loads(answer)
        what = "hang" if answer is None else f"crash {self.process.wait()}"
        self.stop()
        return {"outcome": what, "why": "", "code": [], "grown_mb": 0}

    def answer(self, seconds):
        """Return a line, None if there is none in time, empty if the process has ended."""
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline() if ready else None

    def start(self):
        command = [sys.executable, "-m", "tests.loader_worker", *self.warm_up]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.answer(120) == b"ready\n"

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.fixture(scope="module")
def sources():
    return loader_files.sources()


@pytest.fixture(scope="module")
def worker(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    warm_up = []
    for name, content in sources.items():
        warm_up += [name.partition(" ")[0], str(written(folder, name, content))]
    with Worker(warm_up) as made:
        yield made


def written(folder, name, content):
    """Write a file where its subject looks for it."""
    path = folder / name.replace(" ", "-")
    if "journal" not in name:
        path.write_bytes(content)
        return path
    path.mkdir()
    (path / "journal.jsonl").write_bytes(content)
    return path


def harm(found):
    """What must not be, of what became of a file."""
    if found["outcome"] not in ("loaded", "refused"):
        return f"{found['outcome']} {found['why']}"
    if found["code"]:
        return f"ran code: {found['code']}"
    return f"took {found['grown_mb']} MB" if found["grown_mb"] > MOST_MB else ""


def fuzz(worker, sources, folder, n_files):
    """Return how many files ended how, and those that did harm."""
    ends, harmed = collections.Counter(), {}
    for seed in range(n_files):
        source = list(sources)[seed % len(sources)]
        name, content = loader_files.mutated(source, sources[source], seed)
        found = worker.load(source.partition(" ")[0], written(folder, name, content))
        ends[f"{source}: {found['outcome']}"] += 1
        if harm(found):
            harmed[name] = harm(found)
    return ends, harmed


def test_damaged_files_are_refused_by_name_or_load(worker, sources, tmp_path):
    ends, harmed = fuzz(worker, sources, tmp_path, 200)
    assert not harmed
    assert {end.rpartition(" ")[2] for end in ends} == {"loaded", "refused"}


@pytest.mark.slow
def test_thousand_damaged_files_are_refused_by_name_or_load(worker, sources, tmp_path):
    ends, harmed = fuzz(worker, sources, tmp_path, 1000)
    print(*(f"{n:4d} {end}" for end, n in sorted(ends.items())), sep="\n")
    assert not harmed


@pytest.mark.parametrize("name", loader_files.REFUSED)
def test_file_made_to_harm_is_refused_for_what_it_is(worker, tmp_path, monkeypatch, name):
    (tmp_path / "secret.bin").write_bytes(b"\0" * 36)
    make, said = loader_files.REFUSED[name]
    path = written(tmp_path, "bad.onnx", make())
    found = worker.load("model", path)
    assert not harm(found)
    assert found["outcome"] == "refused"
    assert said in found["why"]
    assert found["grown_mb"] < 100
    assert not (ROOT / "CANARY").exists()


@pytest.mark.parametrize("subject", ["model", "journal"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "absent", "device", "dangling"])
def test_what_is_no_file_is_refused(worker, tmp_path, subject, kind):
    if subject == "journal":
        path = tmp_path / "journal.jsonl"
        place = tmp_path
    else:
        path = place = tmp_path / "model"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind != "absent":
        path.symlink_to({"loop": path, "device": "/dev/zero", "dangling": tmp_path / "no"}[kind])
    found = worker.load(subject, place)
    assert not harm(found)
    if subject == "model":
        assert found["outcome"] == "refused"


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read_is_named(tmp_path):
    path = written(tmp_path, "model", b"")
    path.chmod(0)
    with pytest.raises(PermissionError, match=r"'model' parameter .* can be read\. Got "):
        OnnxPredictor(path)


def test_file_of_more_than_protobuf_holds_is_refused_unread(worker, tmp_path):
    path = tmp_path / "model"
    path.touch()
    os.truncate(path, 2**31)  # takes no room on the disk
    found = worker.load("model", path)
    assert found["outcome"] == "refused"
    assert "a model has at most 2147483647" in found["why"]
    assert found["grown_mb"] < 10
