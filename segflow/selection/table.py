"""A selection as a table."""

from __future__ import annotations

from segflow.core.selection import Selection


def selection_rows(selection: Selection) -> list[list[str]]:
    """The ranking as a table: a heading and one row per candidate."""
    rows = [["candidate", "Dice", "behind", "95 % of resamples", ""]]
    for candidate in selection.candidates:
        if candidate is selection.best:
            rows.append([candidate.name, f"{candidate.dice:.4f}", "", "", "best"])
            continue
        interval = f"{candidate.behind_low:.4f} … {candidate.behind_high:.4f}"
        verdict = "within noise" if candidate.within_noise else ""
        rows.append([candidate.name, f"{candidate.dice:.4f}", f"{candidate.behind:.4f}", interval, verdict])
    return rows
