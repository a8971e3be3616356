"""`hfkit curve`: a stage on growing subsets of its rows."""
