"""A student family and a data source for slicewise."""
