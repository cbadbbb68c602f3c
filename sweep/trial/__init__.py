"""One trial: a fit, from its configuration to its record."""
