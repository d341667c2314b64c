"""Objects under keys, in R2 or in a directory, behind one contract."""
