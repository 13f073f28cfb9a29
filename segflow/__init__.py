"""Self-configuring medical image segmentation, driven by configuration.

`Predictor` is a trained model. `plan`, `preprocess`, `train`, `evaluate` and `compare` are the commands of that name:
they take settings as typed after ``segflow COMMAND``, or as keywords, and return what they made. Docstrings cite the
recipe that segflow follows: "recipe 4.2" is section 4.2 of ``docs/recipe.md``.

Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segflow.apps._training import Trained
    from segflow.core.comparison import Comparison
    from segflow.core.metrics import Summary
    from segflow.inference.predictor import Predictor as Predictor
    from segflow.planning.plan_dataset import PlanReport
    from segflow.preprocessing.preprocess_report import PreprocessReport
    from segflow.training.protocols import EpochJudge

    __version__: str

__all__ = ["Predictor", "__version__", "compare", "evaluate", "plan", "preprocess", "train"]


def __getattr__(name: str) -> Any:
    """`Predictor` from its module, which is slow to load: torch. ``__version__`` from the installed package."""
    if name == "Predictor":
        from segflow.inference.predictor import Predictor

        return Predictor
    if name == "__version__":
        from importlib.metadata import version

        return version("segflow")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def plan(*arguments: str, **settings: object) -> PlanReport:
    """Measure a dataset and plan its configurations, as ``segflow plan`` does. Needs the extra ``train``.

    Args:
        *arguments: Arguments as typed after ``segflow plan``, such as ``"dataset=42"``, ``"planner=resenc_m"``.
        **settings: Settings by name, with ``__`` for a dot: ``dataset=42``, ``planner__memory_target_gb=6``. A value is
            a text, path, number, truth value, None or a list of them, and is taken as it is.

    Returns:
        The result: ``plans``, ``fingerprint``, ``splits``, ``folder``, and ``configurations`` with the reason for each.

    Raises:
        SegflowError: A setting is wrong, or the dataset cannot be planned.
    """
    from segflow.apps import _python

    return _python.plan(*arguments, **settings)


def preprocess(*arguments: str, **settings: object) -> PreprocessReport:
    """Make the arrays for training, as ``segflow preprocess`` does. Needs the extra ``train``.

    Args:
        *arguments: Arguments as typed after ``segflow preprocess``, such as ``"dataset=42"``.
        **settings: Settings by name, as in `plan`: ``dataset=42``, ``configurations=["2d", "3d_fullres"]``.

    Returns:
        The result: ``folder``, ``arrays``, and the cases that were ``done`` or ``skipped``.

    Raises:
        SegflowError: A setting is wrong, plans are missing, or some cases failed; the others are then done.
    """
    from segflow.apps import _python

    return _python.preprocess(*arguments, **settings)


def train(*arguments: str, judge: EpochJudge | None = None, **settings: object) -> Trained:
    """Train a fold, and predict and score its validation cases, as ``segflow train`` does. Needs the extra ``train``.

    The same call continues an interrupted training, and returns at once if it is finished.

    Args:
        *arguments: Arguments as typed after ``segflow train``, such as ``"dataset=42"``, ``"trainer.max_epochs=100"``.
        judge: Called after each epoch with its number, from 0, and its values under their TensorBoard tags. If it gives
            True, the training ends there and is not finished; ``pruned.json`` in its folder says so.
        **settings: Settings by name, as in `plan`: ``dataset=42``, ``fold=0``, ``trainer__max_epochs=100``.

    Returns:
        The result: ``value`` (what a search optimises, see the setting ``objective``), ``folder``, ``metrics`` (last
        value of every curve), ``finished``, ``pruned``, and ``summary`` (scores of the validation cases, or None).

    Raises:
        SegflowError: A setting is wrong, plans or arrays are missing, or the training failed.
    """
    from segflow.apps import _python

    return _python.train(*arguments, judge=judge, **settings)


def evaluate(*arguments: str, **settings: object) -> Summary:
    """Score a folder of label maps against references, as ``segflow evaluate`` does.

    Args:
        *arguments: Arguments as typed after ``segflow evaluate``, such as ``"prediction=predictions"``.
        **settings: Settings by name, as in `plan`: ``prediction=folder``, ``reference=folder``.

    Returns:
        The scores: ``score`` (mean foreground Dice), ``mean`` for each label, and ``cases``.

    Raises:
        SegflowError: A setting is wrong, or some cases could not be scored; the scores of the others are then written.
    """
    from segflow.apps import _python

    return _python.evaluate(*arguments, **settings)


def compare(*arguments: str, **settings: object) -> Comparison:
    """Say whether the scores of several runs differ, and by how much, as ``segflow compare`` does.

    Args:
        *arguments: Arguments as typed after ``segflow compare``, such as ``"seeds={a:[A1,A2],b:[B1,B2]}"``.
        **settings: Settings by name, as in `plan`: ``runs=[folder_a, folder_b]``, ``metric="hd95_mm"``.

    Returns:
        The result: ``settings``, ``rows`` (each pair in each metric and label, with difference, interval, p-value and
        ``winner``), ``noise`` (means of every seed), ``ranks``, and ``notes``.

    Raises:
        SegflowError: A setting is wrong, there are no scores, or they cannot be compared.
    """
    from segflow.apps import _python

    return _python.compare(*arguments, **settings)
