"""Plans the memory of a stage from the configs of its models alone; no weights are read or downloaded.

`planned_stage.py` finds the models of a stage, `shapes.py` builds them without weights, `rows.py` counts the tokens of
a pass, `formulas.py` has the bytes of each part, `processes.py` what each process of a launch holds of them, `peak.py`
adds them up, `communication.py` counts what processes send, `checkpointing.py` decides by the sum.
"""
