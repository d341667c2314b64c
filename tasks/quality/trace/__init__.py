"""Traces results back to their input rows, and jobs to their model, checks and decisions."""
