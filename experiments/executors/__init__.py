"""Where the groups of a run are made: `on_ray.py` is the only file that knows Ray."""
