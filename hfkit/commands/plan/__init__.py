"""What a run will need, told before anything is downloaded: parameters, memory, steps, disk.

`reading.py` finds the stages of a YAML, `shapes.py` builds their models without weights, `memory.py` has the formulas,
`peak.py` adds them up, `steps.py` counts, `advice.py` looks for what would make it fit, `table.py` prints.
"""
