"""The checks of a job: reads them from ``checks.toml``, and holds profiles against them."""
