"""From pairs and methods to a plan: groups, branches, content keys and cost. Nothing is computed."""
