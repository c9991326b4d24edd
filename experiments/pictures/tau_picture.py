"""Draw the README's picture of tau: at which steps the source's attention is injected. `python -m
experiments.pictures.tau_picture`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from p2p.methods.windows import cross_window, self_window, windows_from_tau

STEPS = 50
CROSS, SELF, OWN = "#0072B2", "#E69F00", "#E8E8E8"
PICTURE = Path(__file__).resolve().parents[2] / "results" / "pictures" / "tau.png"


def draw() -> Figure:
    """Return the picture: a pair of bars for each setting, noisiest step on the left."""
    rows: list[tuple[str, str, Any, Any]] = [
        (f"tau={tau:g}", f"cross_replace_steps={1 - tau:g}", *windows_from_tau(tau))
        for tau in (0.0, 0.2, 0.5, 0.8, 1.0)
    ]
    rows.append(("literal reading\nof tau = 0.2", "cross_replace_steps=[[0.2,1]]", (0.2, 1.0), 0.4))
    figure = Figure(figsize=(9, 3.9), layout="constrained")
    axes = figure.add_subplot()
    for row, (name, community, cross, itself) in enumerate(rows):
        y = row + 0.6 * (row == len(rows) - 1)
        for offset, colour, (start, end) in (
            (-0.19, CROSS, cross_window(cross, STEPS)),
            (0.19, SELF, self_window(itself, STEPS)),
        ):
            axes.barh(y + offset, STEPS, 0.34, color=OWN)
            axes.barh(y + offset, min(end, STEPS) - start, 0.34, left=start, color=colour)
        axes.text(-1, y, name, ha="right", va="center", family="monospace", fontsize=9)
        axes.text(STEPS + 1, y, community, ha="left", va="center", family="monospace", fontsize=9)
    axes.set(xlim=(0, STEPS), xlabel="denoising step, noisiest first  (t counts down from T to 0)", yticks=[])
    axes.invert_yaxis()
    axes.spines[["left", "right", "top"]].set_visible(False)
    handles = [Patch(color=colour) for colour in (CROSS, SELF, OWN)]
    labels = ["the source's cross-attention", "the source's self-attention (default 0.4)", "the target's own"]
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    draw().savefig(PICTURE, dpi=110)
