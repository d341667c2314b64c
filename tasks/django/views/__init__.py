"""The views: each reads one answer of the overview and renders one template."""
