"""The group of commands, and how its errors become exit codes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import click

COMMANDS = ("demo", "train", "evaluate", "prune", "quantize", "export", "explain", "check", "bench", "emulate", "info")


class Commands(click.Group):
    """Commands in the order in which they are met; a mistyped one is answered with the nearest."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        return import_module(f"engine.cli.{name}").command if name in COMMANDS else None

    def resolve_command(self, context: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        from engine.cli.problems import unknown

        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(context, args)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="gnomon", message="gnomon %(version)s")
def gnomon() -> None:
    """Derivatives that one can read: train small networks, check their gradients, explain a computation.

    \b
    Examples
      gnomon demo                                      four kinds of model on real data, with a report
      gnomon train mlp --data digits --epochs 20       leaves a checkpoint after each epoch
      gnomon evaluate runs/mlp-digits --data digits    metrics and the confusion matrix
      gnomon prune mlp --data mnist5k --keep 0.05      a twentieth of the weights: accuracy, bytes, latency
      gnomon quantize runs/mlp-mnist5k-pruned          the same in integers of 8 bits, from input to logits
      gnomon export runs/mlp-digits --onnx mlp.onnx    for other programs, verified in ONNX Runtime
      gnomon explain "tanh(x * w + b)" x=1.5 w=2 b=-1  forward and backward, with the numbers
      gnomon check rules.py:f --vjp rules.py:f_vjp     is the gradient right?
      gnomon bench sgemm conv                          our kernels against other libraries
      gnomon emulate kernel.py:f f32:64x64 --count     a CUDA kernel, checked and counted without a GPU
      gnomon info                                      versions, kernels, threads, caches

    Exit codes: 0 done, 1 something failed (a FAIL verdict, a broken file), 2 not understood, 130 interrupted.
    `gnomon check` has its own: 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 not checked.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run `gnomon` and return its exit code."""
    try:
        return int(gnomon.main(args=arguments, prog_name="gnomon", standalone_mode=False) or 0)
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("gnomon: interrupted", err=True)
        return 130
