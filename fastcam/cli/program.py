"""The command line: every verb is one call into the library.

A verb is a function of a module beside this one, listed in ``VERBS``. Verbs import what they need
when they run, so that ``fastcam --help`` waits for nothing but torch, which the package imports.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastcam._util.files import describe
from fastcam._util.stop import INTERRUPTED, TERMINATED, sigterm_raises, terminated
from fastcam.cli import attention, data, demos, evaluation, experiments, models, studio, training
from fastcam.cli.options import typer

app = typer.Typer(
    name="fastcam",
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Direct what an image classifier looks at: fine-tune it so that its Grad-CAM lies in the "
    "region that you name.\n\nStart with `fastcam demo`, or with `fastcam init` and images of your "
    "own; every command explains itself with `--help`.",
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        from fastcam import __version__

        typer.echo(f"fastcam {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def info() -> None:
    """Show what was built and what is loaded (native kernels, CUDA, torch)."""
    import json

    from fastcam import build_info

    typer.echo(json.dumps(build_info(), indent=2, default=str))


VERBS = (
    info,
    data.init,
    data.synth,
    data.landmarks,
    training.train,
    training.finetune,
    evaluation.evaluate,
    evaluation.explain,
    models.layers,
    demos.demo,
    experiments.experiment,
    studio.studio,
)
for _verb in VERBS:
    app.command()(_verb)
attention.app.command("demo")(demos.attention_demo)
app.add_typer(attention.app, name="attention")


def _one_line(text: str) -> str:
    """One line without control characters, which file names may hold."""
    words = " ".join(text.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in words)


def _noted() -> Callable[..., None]:
    """Prints a warning in one line, and the same one once a command."""
    said: set[str] = set()

    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        line = _one_line(str(message))
        if line not in said:
            said.add(line)
            print(f"fastcam: note: {line}", file=sys.stderr)

    return note


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None takes ``sys.argv``.

    Returns:
        The exit code: 0, 2 for bad input (told in one line), 130 when interrupted, 143 by SIGTERM.
        With ``FASTCAM_TRACEBACK=1`` in the environment errors keep their traceback.
    """
    try:
        with warnings.catch_warnings(), sigterm_raises():
            warnings.showwarning = _noted()
            code = app(args=arguments, prog_name="fastcam", standalone_mode=False)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        usage = getattr(error, "format_message", None)  # a wrong option or argument
        bad_input = (ValueError, TypeError, OSError, ImportError, ArithmeticError)
        expected = isinstance(error, bad_input)
        if os.environ.get("FASTCAM_TRACEBACK") or not (usage or expected):
            raise
        text = _one_line(usage() if usage else describe(error))
        if isinstance(error, ModuleNotFoundError):  # of an extra of which a part is there
            text += "; install it with: pip install 'fastcam[all]'"
        if text:  # a group without a command has just shown its help
            print(f"fastcam: error: {text}", file=sys.stderr)
        return 2
    if code == INTERRUPTED:  # Typer's answer to Ctrl-C, too
        code, what = (TERMINATED, "ended by SIGTERM") if terminated() else (code, "interrupted")
        if os.environ.get("RANK", "0") == "0":  # of torchrun's processes the first one speaks
            print(f"fastcam: {what}; what is saved so far is kept", file=sys.stderr)
    return code if isinstance(code, int) else 0
