"""Records whose fields are the keys of their JSON."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from segflow.core.errors import SegflowError

Record = TypeVar("Record")


def record_from(value: Any, kind: type[Record]) -> Record:
    """Build a record from plain JSON. Keys without a field are ignored.

    Args:
        value: The content of a file, or a part of it.
        kind: A dataclass. Fields with a default may be missing in the JSON.

    Raises:
        SegflowError: A key is missing, or its value has another type. The error names it.
    """
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        text = str(error).replace("`", "'")
        raise SegflowError(text.replace(" - at '$.", " in '").replace(" - at '$", " in '")) from None
