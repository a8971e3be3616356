"""`hfkit chat`: talking with a model, or with two side by side."""
