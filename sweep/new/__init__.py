"""python -m sweep.new: a project of one's own that uses slicewise."""
