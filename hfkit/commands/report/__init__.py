"""`hfkit report`: what a pipeline made, as one page."""
