"""Cases from patterns of paths, such as ``/data/{case}_T1w.nii.gz``."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segflow.core.errors import SegflowError
from segflow.core.wording import some
from segflow.exchange.listed_cases import LABEL, CaseList, matched
from segflow.storage.folder_files import is_image_path
from segflow.storage.listing import EMPTY, list_folder

SYNTAX = (
    "{case} stands for the name of a case, {group} for the patient of several cases, * for any text in one name, and "
    "**/ for any folders"
)
CASE, GROUP = "case", "group"
_SPECIAL = re.compile(r"\{(\w*)\}|(\*\*/)|(\*)|([{}])")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern of paths.

    Attributes:
        text: The pattern as written, from an absolute path on.
        expression: What a whole path must match, with the groups ``case`` and ``group``.
        wide: The pattern for `glob.glob`, which finds these paths and perhaps more.
        literal: Number of characters that stand for themselves.
    """

    text: str
    expression: re.Pattern[str]
    wide: str
    literal: int

    @classmethod
    def of(cls, text: str) -> Pattern:
        """Understand a pattern.

        Raises:
            SegflowError: It lacks ``{case}``, or has other fields.
        """
        whole = Path(os.path.abspath(Path(text).expanduser())).as_posix()
        expression, wide, literal, at, seen = "", "", 0, 0, set[str]()
        for match in _SPECIAL.finditer(whole):
            plain, at = whole[at : match.start()], match.end()
            name = match[1]
            if match[4] or (name is not None and name not in (CASE, GROUP)):
                raise SegflowError("a pattern has an unknown field", found=match[0], expected=SYNTAX)
            if name is None:
                part = "(?:[^/]+/)*" if match[2] else "[^/]*"
            else:
                part = f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
                seen.add(name)
            expression += re.escape(plain) + part
            wide += glob.escape(plain) + ("**/" if match[2] else "*")
            literal += len(plain)
        if CASE not in seen:
            raise SegflowError("a pattern does not say where the name of the case stands", found=text, expected=SYNTAX)
        rest = whole[at:]
        return cls(whole, re.compile(expression + re.escape(rest)), wide + glob.escape(rest), literal + len(rest))

    def of_case(self, case_id: str) -> str:
        """The pattern with the name of a case in its place, for messages."""
        return self.text if f"{{{GROUP}}}" in self.text else self.text.replace(f"{{{CASE}}}", case_id)

    def files(self) -> dict[Path, tuple[str, str | None]]:
        """The files that match, each with the name of its case and its group. Hidden files do not match."""
        found = {}
        for path in sorted(glob.glob(self.wide, recursive=True)):
            match = self.expression.fullmatch(Path(path).as_posix())
            if match is not None and is_image_path(Path(path)):
                group = match.groupdict().get(GROUP)
                found[Path(path)] = (match[CASE] if group is None else f"{group}_{match[CASE]}", group)
        return found

    def what_is_there(self) -> str:
        """The content of the last folder on the pattern's way that exists, for messages."""
        folder = Path(self.text)
        while _SPECIAL.search(str(folder)) or not folder.is_dir():
            folder = folder.parent
        return f"in {folder}: {list_folder(folder).summary() or EMPTY}"


def find_by_patterns(images: Mapping[str, str], label: str, *, skip_incomplete: bool = False) -> CaseList:
    """The cases whose files match patterns. See `SYNTAX`.

    With ``{group}`` in a pattern, a case is named ``group_case``. A file that two patterns match belongs to the one
    with more characters of its own, so that ``{case}.nii.gz`` does not take what ``{case}_seg.nii.gz`` names.

    Args:
        images: Channel, in order → pattern of its files.
        label: Pattern of the label maps.
        skip_incomplete: See `matched`.

    Raises:
        SegflowError: A pattern matches nothing, two match the same file, or cases lack files or have several. All
            problems of the cases are listed together.
    """
    patterns = {role: Pattern.of(text) for role, text in (*images.items(), (LABEL, label))}
    owners: dict[Path, tuple[str, str, str | None]] = {}
    for role, pattern in sorted(patterns.items(), key=lambda item: item[1].literal):
        for file, (case_id, group) in pattern.files().items():
            before = owners.get(file)
            if before is not None and patterns[before[0]].literal == pattern.literal:
                raise SegflowError(
                    f"two patterns match {file}", found=f"{before[0]} and {role}", fix="Make one longer."
                )
            owners[file] = (role, case_id, group)
    found: dict[str, dict[str, list[Path]]] = {role: {} for role in patterns}
    groups: dict[str, str] = {}
    for file, (role, case_id, group) in owners.items():
        found[role].setdefault(case_id, []).append(file)
        if group is not None:
            groups[case_id] = group
    for role, pattern in patterns.items():
        if not found[role]:
            raise SegflowError(
                f"no file matches the pattern of {role}, {pattern.text}", found=pattern.what_is_there(), expected=SYNTAX
            )
    source = "the files of the patterns " + some([pattern.text for pattern in patterns.values()])
    return matched(
        source, found, lambda role, case: patterns[role].of_case(case), groups, skip_incomplete=skip_incomplete
    )
