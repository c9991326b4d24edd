"""Where the command was before."""

raise SystemExit("python -m experiments.heat_maps is now `p2p-bench heat-maps`")
