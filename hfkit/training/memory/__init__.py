"""The memory that a stage needs, from the configs of its models alone: no weight is read or downloaded.

`planned_stage.py` finds the models of a stage, `shapes.py` builds them without weights, `rows.py` counts the tokens of
a pass, `formulas.py` has the bytes of each part, `peak.py` adds them up, `checkpointing.py` decides with the sum.
"""
