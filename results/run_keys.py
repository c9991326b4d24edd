"""Keys of a configuration by what they are of, where they change neither a picture nor a value of it."""

SHOWN = ("plots", "report", "study", "tables", "estimate")
"""What is shown of a run."""
CARRIED_OUT = ("executor", "shards")
"""By whom it is made."""
PART = ("shard",)
"""Which part of it a call makes."""
PLACES = ("run_dir", "name", "cache_dir", "tracking")
"""Where it is kept and copied to."""
COMPARED = ("reference", "objective")
"""What its values stand beside, and what is looked for among them."""
