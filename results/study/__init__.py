"""A study in which people judge a run's edits: its page, their answers, what these say."""
