"""A sweep and its workers: opened, launched, summed up."""
