"""The command ``dsv3-numerics``: one verb for each thing that the package does.

Lives here: the group and how every verb ends. Each verb has a file of its own: it parses, calls the library
and prints what the library makes. Wrong input ends in one line on standard error, not in a traceback. Exit
codes: 0 well, 1 failed, 2 wrong usage, 130 interrupted (SIGINT), 143 terminated (SIGTERM). Not here: anything
that a Python user could call.
"""

from __future__ import annotations

import io
import sys

import click

from .codesign import codesign_command
from .compare import compare_command
from .console import (
    INTERRUPTED,
    TERMINATED,
    Terminated,
    bounded,
    ensure_streams,
    error_text,
    silence,
    terminations,
)
from .convert import convert_command
from .experiment import experiment_command
from .formats import formats_command
from .golden import golden_command
from .inspect import inspect_command
from .make import make_command
from .merge import merge_command
from .run import run_command
from .sensitivity import sensitivity_command
from .study import study_command
from .tables import accumulators_command, dialects_command, recipes_command, schemes_command

VERBS = (
    accumulators_command,
    codesign_command,
    compare_command,
    convert_command,
    dialects_command,
    experiment_command,
    formats_command,
    golden_command,
    inspect_command,
    make_command,
    merge_command,
    recipes_command,
    run_command,
    schemes_command,
    sensitivity_command,
    study_command,
)

_EXAMPLES = """
\b
Examples:
  dsv3-numerics study --demo                        study a small trained network
  dsv3-numerics study model.safetensors             study a file, or a checkpoint folder
  dsv3-numerics inspect ./DeepSeek-V3               what a checkpoint holds, what is wrong with it
  dsv3-numerics convert ./V3 ./V3-bf16 --to bf16    a checkpoint's FP8 weights as plain numbers
  dsv3-numerics run ./tiny-v3 --ids 3,1,4           a forward in float32 or float64
  dsv3-numerics make ./tiny-v3                      a checkpoint of random weights, of any size
  dsv3-numerics merge ./V3-bf16                     end what runs with --part began
  dsv3-numerics sensitivity --demo                  which choice of a recipe costs how much, where
  dsv3-numerics formats float8_e4m3fn               all values of a format
  dsv3-numerics recipes                             what can be named: also schemes, accumulators
  dsv3-numerics experiment                          what the papers claim, measured again
  dsv3-numerics compare ours.npz theirs.npz         where two results differ, by how much, and why
  dsv3-numerics golden list                         vectors with known answers, for kernels
  dsv3-numerics codesign                            the papers' arithmetic for any model
"""


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXAMPLES,
)
@click.version_option(None, "-V", "--version", package_name="dsv3_numerics", prog_name="dsv3-numerics")
def cli() -> None:
    """Small number formats and shared scales, as DeepSeek-V3 uses them, on any CPU."""


for verb in VERBS:
    cli.add_command(verb)


def main(args: list[str] | None = None) -> None:
    """Run the command line; every expected failure ends in one line and an exit code."""
    try:
        ensure_streams()
        with terminations():
            code = cli.main(args, prog_name="dsv3-numerics", standalone_mode=False)
            sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        told = io.StringIO()
        error.show(told)
        click.echo(bounded(told.getvalue()), err=True, nl=False)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        cause = error.__cause__ if isinstance(error, click.Abort) and error.__cause__ else error
        terminated = isinstance(cause, Terminated)
        notes = "".join(f"; {note}" for note in getattr(cause, "__notes__", ()))
        click.echo(("terminated" if terminated else "interrupted") + notes, err=True)
        sys.exit(TERMINATED if terminated else INTERRUPTED)
    except BrokenPipeError:
        silence()
        sys.exit(1)
    except (ValueError, TypeError, OSError, MemoryError) as error:
        click.echo(f"dsv3-numerics: {error_text(error)}", err=True)
        if isinstance(error, OSError):  # it may have been standard output's
            silence()
        sys.exit(1)
