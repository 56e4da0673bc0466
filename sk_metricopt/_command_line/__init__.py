"""The command sk-metricopt: what is in an exported file, and how well it does on a table.

Only what a command needs is imported, once it is known which: neither takes torch.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

PROGRAM = "sk-metricopt"
_BAD_INPUT, _INTERRUPTED, _BROKEN_PIPE = 2, 130, 141  # the latter as shells count signals


class _Parser(argparse.ArgumentParser):
    """Says what is wrong as everything else here does."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}. See: {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str or None, default=None
        Its arguments. None takes those of the process.

    Returns
    -------
    int
        What the process is to exit with: 0, 2 for bad input, 130 after an interrupt.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            args = _parser().parse_args(argv)
            sys.stdout.write(args.run(args))
            sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # What is left in the buffer would fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (ImportError, OSError, ValueError) as exc:
        _tell("error", exc)
        return _BAD_INPUT
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="Look into ONNX files that to_onnx wrote.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_inspect(commands)
    _add_score(commands)
    return parser


class _Version(argparse.Action):
    """Tells the version, which is imported only for that."""

    def __call__(self, parser, namespace, values, option_string=None):
        from sk_metricopt import __version__

        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        parser.exit()


def _add_inspect(commands) -> None:
    about = "show inputs, outputs and properties of a file"
    command = commands.add_parser("inspect", help=about, description=about.capitalize() + ".")
    command.add_argument("model", metavar="MODEL", help="an ONNX file")
    command.add_argument("--json", action="store_true", help="show all of it as one JSON object")
    command.set_defaults(run=_run_inspect)


def _add_score(commands) -> None:
    about = "score the file of a classifier on a table"
    command = commands.add_parser("score", help=about, description=about.capitalize() + ".")
    add = command.add_argument
    add("model", metavar="MODEL", help="an ONNX file")
    add("data", metavar="DATA", help="a CSV file with a header; may be compressed")
    add("--target", required=True, metavar="COLUMN", help="column of the true labels")
    add("--scoring", required=True, metavar="NAME", help="a scorer of scikit-learn: f1_macro")
    add("--pos-label", metavar="LABEL", help="positive class, for scorers such as f1")
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1 or auto")
    add("--batch-size", type=int, metavar="N", help="rows per run (1024)")
    add("--adapter", metavar="NAME", help="which adapter of the file to run with")
    add(
        "--na-values",
        action="append",
        default=[],
        metavar="WORD",
        help="what else stands for a missing value, such as '?'; may be given again",
    )
    add("--json", action="store_true", help="show the result as one JSON object")
    command.set_defaults(run=_run_score)


def _run_inspect(args: argparse.Namespace) -> str:
    from sk_metricopt._command_line._inspect import inspect

    return inspect(args.model, args.json)


def _run_score(args: argparse.Namespace) -> str:
    from sk_metricopt._command_line._score import score

    return score(args)


def _tell(level: str, said: object) -> None:
    line = " ".join(str(said).split()) or type(said).__name__
    sys.stderr.write(f"{PROGRAM}: {level}: {line}\n")


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    _tell("warning", message)
