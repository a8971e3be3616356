"""`hfkit plan`: parameters, memory, steps and disk of a run, before anything is downloaded.

`read_stages.py` reads the stages of a YAML, `hfkit/training/memory/` plans their memory, `steps.py` counts steps and
disk, `advice.py` finds flags that make a stage fit, `launches.py` a number of processes, `table.py` prints.
"""
