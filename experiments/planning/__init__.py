"""From configuration and pairs to a plan: groups, branches, content keys, cost. Nothing is computed here."""
