"""Counts rows, features and scores, and adds the counts of parts up. The profile of training data is a baseline."""
