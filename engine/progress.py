"""A progress bar while training: rich's on a terminal, a line for each epoch elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from engine.run import Run


class Callback:
    """Looks on while `fit` trains. Override what is wanted; all of it is called between two steps.

    To keep run.params is to keep these parameters; run.moments may be written over by the next step.
    """

    def start(self, run: Run, plan: Mapping[str, Any]) -> None:
        """Before the first step. `plan` has "epochs" and "batches", those of an epoch, and all that a checkpoint tells of the plan."""

    def step(self, run: Run, loss: float) -> None:
        """After each step, with the loss of its batch."""

    def epoch(self, run: Run, record: dict[str, float]) -> bool | None:
        """After each epoch, with its record, which is the last of run.history. True ends the training."""

    def end(self, run: Run) -> None:
        """After the last step, also after an error or Ctrl-C."""


class Lines(Callback):
    """A line for each epoch, on stderr."""

    def start(self, run: Run, plan: Mapping[str, Any]) -> None:
        """Note how many epochs there will be."""
        self.epochs = plan["epochs"]

    def epoch(self, run: Run, record: dict[str, float]) -> None:
        """Print the record."""
        print(f"epoch {run.epoch}/{self.epochs}  {told(record)}", file=sys.stderr)


class Bar(Callback):
    """rich's bar over all steps, with the running loss, the steps per second, and the last epoch's record."""

    def start(self, run: Run, plan: Mapping[str, Any]) -> None:
        """Draw the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.epochs, self.batches = plan["epochs"], plan["batches"]
        columns = [TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[said]}")]
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.task = self.bar.add_task(self._where(run), total=self.epochs * self.batches, completed=run.step, said="")
        self.bar.start()

    def step(self, run: Run, loss: float) -> None:
        """Move the bar."""
        said = f"loss {run.loss_sum / max(run.examples, 1):.4f}" + (f"  ({told(run.history[-1])})" if run.history else "")
        self.bar.update(self.task, completed=run.step, description=self._where(run), said=said)

    def end(self, run: Run) -> None:
        """Take the bar away."""
        self.bar.stop()

    def _where(self, run: Run) -> str:
        return f"epoch {min(run.epoch + 1, self.epochs)}/{self.epochs}"


def progress() -> Callback:
    """A bar if rich is installed and stderr is a terminal, else lines."""
    if sys.stderr.isatty():
        try:
            import rich.progress  # noqa: F401
        except ImportError:
            return Lines()
        return Bar()
    return Lines()


def tracked(items: Sequence[Any], what: str, shown: bool = True) -> Iterator[Any]:
    """The items one after the other, under a bar if `shown`, rich is installed and stderr is a terminal."""
    if shown and sys.stderr.isatty():
        try:
            from rich.console import Console
            from rich.progress import track
        except ImportError:
            return iter(items)
        return iter(track(items, what, console=Console(stderr=True), transient=True))
    return iter(items)


def told(record: Mapping[str, float]) -> str:
    """A record in one line."""
    return "  ".join(f"{name} {value:.4g}" for name, value in record.items() if name not in ("epoch", "lr", "seconds"))
