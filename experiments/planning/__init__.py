"""From configuration and pairs to a plan: groups, branches, content keys and cost. Nothing is computed here."""
