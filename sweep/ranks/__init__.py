"""A fit on several ranks: who starts them, one of them, and what they say."""
