"""A package of a user's, outside slicewise: tests put the folder around it on the path."""
