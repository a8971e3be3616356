"""Validates a stage's config before any weights are loaded: contradictory keys, and missing or unfit inputs.

`stage.py` runs the checks of all keys.
"""
