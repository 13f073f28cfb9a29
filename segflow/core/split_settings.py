"""Settings of splits. Quick to import."""

from __future__ import annotations

from dataclasses import dataclass

from segflow.core.errors import SegflowError

SCHEMES = ("kfold", "stratified", "leave_one_group_out")


@dataclass(kw_only=True, slots=True)
class SplitSettings:
    """How cases are divided. The defaults give nnU-Net's folds.

    Attributes:
        scheme: ``kfold``; ``stratified``, in which every fold gets its share of every stratum; or
            ``leave_one_group_out``, one fold for each group.
        folds: Number of folds; not used by ``leave_one_group_out``.
        seed: Seed of the shuffle.
        group_by: Which cases stay together on one side of every split. A regular expression on the case id, whose
            first group or whole match names the group; a CSV file of case id and group; or ``FILE.csv:HEADING``, a
            column of a CSV file with headings. None keeps no cases together.
        stratify_by: The strata of ``stratified``, given in the same form as ``group_by``.
        file: A JSON or CSV file with your own splits. All settings above except ``group_by`` are then unused.
        random_beyond: Give a fold beyond the last a random 80:20 split, as nnU-Net does, instead of refusing it.
    """

    scheme: str = "kfold"
    folds: int = 5
    seed: int = 12345
    group_by: str | None = None
    stratify_by: str | None = None
    file: str | None = None
    random_beyond: bool = False

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise SegflowError("unknown scheme of splits", found=repr(self.scheme), expected=" | ".join(SCHEMES))
        if self.folds < 2:
            raise SegflowError("the number of folds must be at least 2", found=self.folds)
        if self.scheme == "stratified" and not self.stratify_by:
            raise SegflowError("stratified splits need 'stratify_by'", expected="a regular expression or a CSV file")
        if self.scheme == "leave_one_group_out" and not self.group_by:
            raise SegflowError("leaving one group out needs 'group_by'", expected="a regular expression or a CSV file")
