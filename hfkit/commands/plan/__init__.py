"""`hfkit plan`: parameters, memory, steps and disk of a run, before anything is downloaded.

`planned_stages.py` reads the stages of a YAML, `shapes.py` builds their models without weights, `memory.py` has the
formulas, `peak.py` adds them up, `steps.py` counts, `advice.py` finds flags that make it fit, `table.py` prints.
"""
