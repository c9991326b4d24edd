"""Metrics of a run's pictures, or of a folder of pictures that any tool made."""
