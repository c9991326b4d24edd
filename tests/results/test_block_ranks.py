"""Which blocks carry a metric: means by block, a greedy search as far as the rows go, and the plot."""

import json
from typing import Any

import pandas as pd
import pytest

from results.plots import block_plots
from results.plots.run_plots import by_block
from results.tables.block_ranks import BlockMeans, block_means, greedy
from results.tables.cells import with_cells
from results.tables.tables import main_table
from tests.results.synthetic import DIRECTIONS, make_row, p2p

METRIC = "lpips_embedded@1"
VALUES: dict[Any, float] = {  # of blocks: None is all of them
    None: 0.10, "a": 0.30, "b": 0.22, "c": 0.34, "no-a": 0.13, "no-b": 0.21, "no-c": 0.10,
}  # fmt: skip


def run(values: dict[Any, float], pairs: int = 3, **params: Any) -> pd.DataFrame:
    """Return records of pairs whose values differ by 0.01 from pair to pair; `values` are their means."""
    rows = []
    for number in range(pairs):
        for blocks, value in values.items():
            named = list(blocks) if isinstance(blocks, tuple) else blocks
            own = {"params": json.dumps({"blocks": named, **params}), METRIC: value + 0.01 * (number - 1)}
            rows.append(make_row(f"pair-{number}", 0, "p2p", **p2p(0.2)) | own)
        rows.append(make_row(f"pair-{number}", 0, "fixed_seed", tau=1.0) | {METRIC: 0.4})
    return pd.DataFrame(rows).assign(**{f"reason:{METRIC}": ""})


def test_means_are_by_block_alone_and_left_out() -> None:
    means = block_means(run(VALUES), METRIC, False, "p2p")
    assert means.everywhere == pytest.approx(0.10)
    assert means.alone == pytest.approx({"a": 0.30, "b": 0.22, "c": 0.34})
    assert means.left_out == pytest.approx({"a": 0.13, "b": 0.21, "c": 0.10})
    assert means.pairs == 3
    lines = means.to_markdown().splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == ["b", "a", "c", "all"]
    assert lines[2] == "| b | 0.22 | 0.21 | +0.11 |"


def test_a_pair_that_lacks_a_value_counts_nowhere() -> None:
    frame = run(VALUES)
    lacking = frame["pair_id"].eq("pair-0") & frame["params"].str.contains('"no-b"')
    frame.loc[lacking, METRIC] = float("nan")
    means = block_means(frame, METRIC, False, "p2p")
    assert means.pairs == 2
    assert means.everywhere == pytest.approx(0.105)  # of the pairs at 0.10 and 0.11


def test_the_greedy_search_tells_what_it_needs_next_and_ends_where_nothing_helps() -> None:
    first = greedy(block_means(run(VALUES), METRIC, False, "p2p"), 5)
    assert first.steps == (("b", pytest.approx(0.22)),)
    assert first.missing == (("b", "a"), ("b", "c"))
    more = VALUES | {("b", "a"): 0.12, ("b", "c"): 0.22}
    second = greedy(block_means(run(more), METRIC, False, "p2p"), 5)
    assert [block for block, _ in second.steps] == ["b", "a"]
    assert second.missing == (("b", "a", "c"),)
    assert greedy(block_means(run(more), METRIC, False, "p2p"), 2).missing == ()
    last = greedy(block_means(run(more | {("c", "a", "b"): 0.12}), METRIC, False, "p2p"), 5)
    assert [block for block, _ in last.steps] == ["b", "a"]  # all three are no better
    assert last.missing == ()
    upward = greedy(block_means(run(more), METRIC, True, "p2p"), 5)
    assert upward.steps[0][0] == "c"


@pytest.mark.parametrize(
    ("frame", "metric", "method", "message"),
    [
        (
            run(VALUES),
            METRIC,
            "projections",
            "--method: the run has no edit by projections, but by fixed_seed",
        ),
        (run(VALUES), "mse@1", "p2p", "--metric: the run has no mse@1, but lpips_embedded@1"),
        (
            pd.concat([run(VALUES, tau=0.2), run({"a": 0.3}, tau=0.5)]),
            METRIC,
            "p2p",
            "p2p: more than its blocks varies",
        ),
        (
            run({}).assign(method="p2p", params='{"tau": 1}'),
            METRIC,
            "p2p",
            "p2p: blocks is no axis of this run",
        ),
    ],
)
def test_what_cannot_be_ranked_is_one_line(
    frame: pd.DataFrame, metric: str, method: str, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as refused:
        block_means(frame, metric, False, method)
    assert "\n" not in str(refused.value)


def test_the_plot_has_a_point_for_each_block_alone_and_left_out() -> None:
    table = main_table(with_cells(run(VALUES | {("a", "b"): 0.12})), [METRIC])
    rows = block_plots.single_blocks(table)
    assert list(dict.fromkeys(rows["block"])) == ["a", "b", "c"]
    [(name, figure)] = list(by_block(table, DIRECTIONS))
    assert name == "by_block"
    [axes] = figure.axes
    drawn = {bars.get_label(): bars.lines[0].get_xdata().tolist() for bars in axes.containers}
    assert drawn == {
        "alone": pytest.approx([0.30, 0.22, 0.34]),
        "all but it": pytest.approx([0.13, 0.21, 0.10]),
    }
    lines = {line.get_label(): line.get_xdata()[0] for line in axes.get_lines() if line.get_label()[0] != "_"}
    assert lines == {"all blocks": pytest.approx(0.10), "fixed seed": pytest.approx(0.40)}
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["a", "b", "c"]
    assert list(by_block(main_table(with_cells(run({None: 0.1, "a": 0.2})), [METRIC]), DIRECTIONS)) == []


def test_a_table_without_blocks_has_no_such_plot() -> None:
    plain = run({None: 0.1})
    assert list(by_block(main_table(with_cells(plain), [METRIC]), DIRECTIONS)) == []


def test_means_know_their_direction() -> None:
    means = BlockMeans(METRIC, True, None, {"a": 1.0}, {}, {}, 1)
    assert means.better(2, 1)
    assert not means.better(1, 1)
    assert means.to_markdown().splitlines()[2] == "| a | 1 |  |  |"
