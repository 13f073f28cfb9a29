"""Self-configuring medical image segmentation, driven by configuration.

`Predictor` is a trained model. `train` is ``segflow train`` from Python, and needs the extra ``train``. Docstrings cite
the recipe that segflow follows: "recipe 4.2" is section 4.2 of ``docs/recipe.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segflow.apps._training import Trained
    from segflow.inference.predictor import Predictor as Predictor
    from segflow.training.protocols import EpochJudge

__all__ = ["Predictor", "train"]


def __getattr__(name: str) -> Any:
    """`Predictor` from its module, which is slow to load: torch."""
    if name == "Predictor":
        from segflow.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def train(*arguments: str, judge: EpochJudge | None = None) -> Trained:
    """Train a fold, and predict and score its validation cases, as ``segflow train`` does.

    The same call continues an interrupted training, and returns at once if it is finished.

    Args:
        *arguments: Arguments as typed after ``segflow train``, such as ``"dataset=42"``, ``"trainer.max_epochs=100"``.
        judge: Called after each epoch with its number, from 0, and its values under their TensorBoard tags. If it gives
            True, the training ends there and is not finished; ``pruned.json`` in its folder says so.

    Returns:
        The result: ``value`` (what a search optimises, see the setting ``objective``), ``folder``, ``metrics`` (last
        value of every curve), ``finished``, ``pruned``, and ``summary`` (scores of the validation cases, or None).

    Raises:
        SegflowError: A setting is wrong, plans or arrays are missing, or the training failed.
    """
    from segflow.apps._edge import refuse_without_training

    refuse_without_training("segflow.train")
    from segflow.apps._python import train as start  # slow: Hydra, then torch

    return start(*arguments, judge=judge)
