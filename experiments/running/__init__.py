"""A plan carried out: pictures and records on disk, so that a killed run continues where it stood."""
