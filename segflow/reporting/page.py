"""Pages of one file: a template, with its data, styles and scripts embedded. A browser opens them without network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from segflow.storage.file_stamps import Origin, digest_of
from segflow.storage.stamps import StampedFolder

DIGITS = 5
"""Significant digits of numbers in the data of a page."""

_ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def write_page(file: Path, template: str, data: Mapping[str, Any], *, way: str = "report", **shown: Any) -> None:
    """Write a page as a whole or not at all, with a stamp that marks it as segflow's.

    Args:
        file: The page.
        template: Name of the template, which extends ``base.html.j2``.
        data: What the page's scripts read, as `in_json` takes it.
        way: Name of the step, for the stamp.
        **shown: What the template shows. Every text is escaped.

    Raises:
        SegflowError: The page cannot be written.
    """
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    made = {"version": version("segflow"), "written": written}
    page = _environment().get_template(template).render(data=in_json(data), **made, **shown)
    with StampedFolder(file.parent).written(file.name, Origin(way, 2, {"page": digest_of(page)})) as place:
        (place / file.name).write_text(page, encoding="utf-8")


def in_json(value: Any) -> Markup:
    """JSON for a ``<script type="application/json">``: no text within can end the script.

    NaN becomes ``null`` and an infinite number the text ``"inf"``, which JSON has no numbers for.
    """
    return Markup(json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":")).translate(_ESCAPED))


def asset(name: str) -> Markup:
    """The text of a style or script of this package, to be embedded as it is.

    Args:
        name: Its path within the package, such as ``report.js``.
    """
    return Markup(files("segflow.reporting").joinpath(name).read_text(encoding="utf-8"))


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("segflow", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["asset"] = asset
    environment.filters["in_json"] = in_json
    return environment
