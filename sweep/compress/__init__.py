"""From a teacher to a smaller model: a library, a choice under a budget, a healing, an export."""
