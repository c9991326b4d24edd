"""The report of a run: one page that opens from a folder, offline, and its thumbnails."""
