"""Applications as the official Optuna sweeper's documentation describes them."""
