"""The shards' way through a Dask cluster."""
