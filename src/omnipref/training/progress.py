"""One quiet line of progress instead of a printed dictionary per log."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.utils import logging

SHOWN = {"loss": "loss", "rewards/accuracies": "acc", "rewards/margins": "margin", "eval_loss": "eval loss"}


class ProgressLine(TrainerCallback):
    """A bar over optimiser steps with loss, accuracy and margin of the last log; transformers' own bars wait meanwhile.

    Args:
        name: what is trained, in front of the bar.
        position: line of the bar, where several processes show one each.
    """

    def __init__(self, name: str = "training", position: int = 0):
        self.name, self.position = name, position
        self.bar: tqdm | None = None
        self.shown: dict[str, str] = {}
        self.others = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        if state.is_world_process_zero:
            self.others = logging.is_progress_bar_enabled()
            logging.disable_progress_bar()
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc=self.name,
                unit="step",
                position=self.position,
                leave=None,
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar."""
        if self.bar:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Show the latest numbers."""
        self.shown |= {SHOWN[name]: f"{value:.3f}" for name, value in (logs or {}).items() if name in SHOWN}
        if self.bar:
            self.bar.set_postfix(self.shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the bar."""
        self.close()

    def close(self) -> None:
        """End the line, also after an error, whose message would stand behind the bar."""
        if self.bar:
            self.bar.close()
            self.bar = None
        if self.others:
            logging.enable_progress_bar()


def show_progress(trainer: Trainer, name: str = "training", position: int = 0) -> ProgressLine:
    """Replace transformers' bar and printed logs by a `ProgressLine`, which is given."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    line = ProgressLine(name, position)
    trainer.add_callback(line)
    return line
