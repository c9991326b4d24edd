"""Figures that a command of its own draws: heat-maps of words, and README's picture of tau."""
