"""Records of a run and what is made of them: statistics, tables, plots, picture strips, the W&B copy.

Knows rows and picture files, never models; `results.summary.summarise(run_dir)` is the entry point.
"""
