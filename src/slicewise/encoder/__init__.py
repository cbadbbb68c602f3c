"""Whole encoders: cut into slices, put together anew from students, healed, exported."""
