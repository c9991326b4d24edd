"""Data sets: each one a small frozen dataclass whose `load()` gives the `Pair`s of an experiment."""
