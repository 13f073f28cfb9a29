"""A user's own part, named in the settings: called in place of a shipped one, and checked against its contract."""

from __future__ import annotations

import inspect
import pickle
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segflow.core.errors import SegflowError


@dataclass(frozen=True, slots=True)
class OwnPart:
    """A user's own callable.

    Attributes:
        setting: Key of the setting that names it, such as ``evaluation.metrics.bias``, for messages.
        call: The callable.
        description: Its origin and options, as plain JSON. Results record it. Parts with equal descriptions count as
            the same.
    """

    setting: str
    call: Callable[..., Any]
    description: Mapping[str, Any] = field(default_factory=dict)

    def check(self, contract: str, arguments: int, *, travels: bool = True) -> None:
        """Refuse a part that cannot be called, before any work is done.

        Args:
            contract: Arguments and result of the part, for the message.
            arguments: Number of positional arguments.
            travels: Worker processes call it.

        Raises:
            SegflowError: It is not callable, takes other arguments, or cannot be sent to a worker process.
        """
        if not callable(self.call):
            raise self.refused(f"{type(self.call).__name__}, which cannot be called", contract)
        try:
            inspect.signature(self.call).bind(*[None] * arguments)
        except TypeError as error:
            raise self.refused(f"{_name_of(self.call)}{inspect.signature(self.call)}: {error}", contract) from None
        except ValueError:  # built in C, without a signature
            pass
        if travels:
            check_travels(self.call, self.setting)

    def run(self, contract: str, *arguments: Any) -> Any:
        """Call the part.

        Raises:
            SegflowError: It failed. The error names the setting, the line and the contract.
        """
        try:
            return self.call(*arguments)
        except (SegflowError, MemoryError, OSError):
            raise
        except Exception as error:
            raise self.refused(described_failure(error), contract) from error

    def refused(self, found: object, contract: str) -> SegflowError:
        """The error for a part that breaks its contract."""
        return SegflowError(f"{self.setting}: the part does not keep its contract", found=found, expected=contract)


def check_travels(thing: object, setting: str) -> None:
    """Refuse an object that cannot be sent to a worker process.

    Raises:
        SegflowError: It cannot be pickled.
    """
    try:
        pickle.dumps(thing)
    except Exception as error:
        raise SegflowError(
            f"{setting}: the part cannot be sent to the processes that work on cases",
            found=f"{type(error).__name__}: {error}",
            expected="an object of a class of a module, or a function of a module; no lambda, no open file",
        ) from error


def described_failure(error: Exception) -> str:
    """Type, message and place of an exception in a user's code."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def _name_of(call: Callable[..., Any]) -> str:
    return str(getattr(call, "__qualname__", type(call).__qualname__))
