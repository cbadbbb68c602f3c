"""Student families: one file each, every one a `Student` that maps (B, T, H) to (B, T, H)."""
