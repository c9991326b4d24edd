"""How the plots look: palette, empty figures, axis labels with their direction, a legend above, files.

Nothing here touches matplotlib's global state.
"""

import io
from collections.abc import Collection, Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from results.labels import escape_mathtext, metric_label
from results.store.whole_files import write_whole

Directions = Mapping[str, bool]

# Okabe and Ito's palette, safe for the colour-blind; every method also has its own marker.
STYLE: dict[str, tuple[str, str]] = {
    "p2p": ("#0072B2", "o"),
    "p2p_auto_tau": ("#000000", "X"),
    "sdedit": ("#D55E00", "s"),
    "fixed_seed": ("#009E73", "D"),
    "source": ("#555555", "*"),
}
OTHERS = (("#CC79A7", "^"), ("#E69F00", "v"), ("#56B4E9", "P"), ("#882255", "<"))
INK, GRID = "#333333", "#E4E4E4"
SIZE = 9
_DPI = 200


def new_figure(
    panels: int, width: float = 3.3, height: float = 2.7, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its empty panels, three a row (four: two), each `width` x `height` inches."""
    columns = 2 if panels == 4 else min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(width * columns, height * rows), dpi=_DPI, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y).ravel()
    for axes in grid[panels:]:
        axes.remove()
    for axes in grid[:panels]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#999999")
        axes.grid(True, color=GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=SIZE - 1, color="#999999", labelcolor=INK)
    return figure, list(grid[:panels])


def label_axis(axes: Axes, axis: str, metric: str, directions: Directions) -> None:
    """Name a metric on an axis ("x" or "y"), with the direction that is better."""
    better = {True: "better →", False: "← better", None: ""}[directions.get(metric)]
    # The second line holds the backbone and the direction.
    text = escape_mathtext(metric_label(metric)).replace(" (", "\n(", 1)
    axes.set(**{f"{axis}label": f"{text}   {better}".rstrip()})
    getattr(axes, f"{axis}axis").label.set(fontsize=SIZE, color=INK)


def legend(
    figure: Figure, axes: Axes, columns: int | None = None, only: Collection[str] | None = None
) -> None:
    """Put the axes' legend above the figure's panels, in one line or `columns`, or in what fits.

    With `only` it has these labels alone.
    """
    # Above the panels: looking for a free place within them costs seconds on a busy machine, and warns.
    handles, labels = axes.get_legend_handles_labels()
    if only is not None:
        kept = [place for place, label in enumerate(labels) if label in only]
        handles, labels = [handles[place] for place in kept], [labels[place] for place in kept]
    renderer = FigureCanvasAgg(figure).get_renderer()
    for tried in range(min(columns or len(handles), len(handles)), 0, -1):
        box = figure.legend(
            handles, labels, loc="outside upper left", ncols=tried, fontsize=SIZE - 1,
            frameon=False, labelcolor=INK, handletextpad=0.5, columnspacing=1.6,
        )  # fmt: skip
        if tried == 1 or box.get_window_extent(renderer).width <= figure.bbox.width:
            return
        box.remove()


def bars(values: pd.DataFrame) -> np.ndarray:
    """Lengths of the error bars, (2, cells); a missing interval has no bar."""
    return np.nan_to_num(np.stack([values["mean"] - values["low"], values["high"] - values["mean"]]))


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `<stem>.png` and `<stem>.pdf` without a date, so that equal tables give equal files.

    Both have the layout that the figure has as a PNG. `Figure.savefig` would draw it once more for each file,
    to lay it out.
    """
    from matplotlib.backends.backend_pdf import FigureCanvasPdf  # takes longer to import than most tables

    png, pdf = io.BytesIO(), io.BytesIO()
    # A seventh larger than at Pillow's usual level 6, in two thirds of the time.
    FigureCanvasAgg(figure).print_png(png, pil_kwargs={"compress_level": 1})
    figure.set_layout_engine("none")
    # Matplotlib parts the fonts of a PDF by the PostScript setting: with its 3, "τ" is in a font of its own.
    with matplotlib.rc_context({"pdf.fonttype": 42, "ps.fonttype": 42}):
        FigureCanvasPdf(figure).print_pdf(pdf, metadata={"CreationDate": None})
    paths = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".png", ".pdf")]
    for path, content in zip(paths, (png, pdf), strict=True):
        write_whole(path, content.getvalue())
    return paths
