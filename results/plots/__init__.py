"""From tables to figures and strips of pictures."""
