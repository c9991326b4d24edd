"""Which blocks carry a metric, of a run over single blocks: `p2p-bench blocks RUN --metric lpips_embedded@1`.

A table of each block alone and left out, and a greedy search: sets that grow by the block that is best with
them. What a step of the search has to make is told as an override of the run's own command, so that it goes
on in the run's folder, where it stood.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    """Run `p2p-bench blocks`; return the exit code. No model is loaded, and nothing written."""
    parser = argparse.ArgumentParser("p2p-bench blocks", description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--metric", required=True, help="as the tables name it, or the beginning of it")
    parser.add_argument(
        "--method", default="p2p", help="whose axis blocks is: p2p (the usual) or projections"
    )
    parser.add_argument("--most", type=int, default=5, metavar="N", help="blocks of the largest set (5)")
    given = parser.parse_args(arguments)
    if given.most < 1:
        raise ValueError(f"--most: {given.most} is no number of blocks, allowed are 1 and more")
    from results.store.metric_columns import load_columns
    from results.store.records import load
    from results.tables.block_ranks import block_means, greedy
    from results.tables.paper import named

    frame, directions = load(given.run_dir), load_columns(given.run_dir)
    meant = named(given.metric, list(directions))
    if len(meant) > 1:
        raise ValueError(f"--metric: {given.metric!r} is {', '.join(meant)}, allowed is one of them")
    given.metric = meant[0] if meant else given.metric
    direction = directions.get(given.metric)
    if direction is None and given.metric in frame:
        raise ValueError(
            f"--metric: of {given.metric} neither direction is better, allowed is one that has one"
        )
    means = block_means(frame, given.metric, bool(direction), given.method)
    better = "higher" if direction else "lower"
    print(f"{given.metric}, {better} is better, means over {means.pairs} pairs\n")
    print(means.to_markdown())
    chain = greedy(means, given.most)
    for place, (block, value) in enumerate(chain.steps, 1):
        print(f"{place}. {'+ ' if place > 1 else ''}{block}: {value:.4g}")
    if chain.missing:
        sets = ",".join(f"[{','.join(one)}]" for one in chain.missing)
        print(
            f"\nThe next step needs the run's own command with\n'grid.methods.{given.method}.blocks=[{sets}]'"
        )
    else:
        print("\nThe search is over: no other block makes it better, or the set is as large as it may be.")
    return 0
