"""A study: its space, its storage, and who of several processes runs what."""
