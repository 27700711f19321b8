"""A package that comes along with the function."""
