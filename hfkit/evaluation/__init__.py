"""Measures how good a model is, alone (`hfkit evaluate`) or against others (`hfkit arena`)."""
