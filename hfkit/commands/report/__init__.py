"""`hfkit report`: the results of a pipeline on one page."""
