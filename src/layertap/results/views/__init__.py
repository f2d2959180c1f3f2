"""A store as the objects of other libraries: xarray, Arrow, pandas."""
