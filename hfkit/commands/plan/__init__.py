"""`hfkit plan`: plans parameters, memory, steps and disk space of a run before anything is downloaded.

`read_stages.py` reads the stages of a YAML, `hfkit/training/memory/` plans their memory, `steps.py` counts steps and
disk, `advice.py` finds flags that make a stage fit, `launches.py` finds a number of processes, `table.py` prints.
"""
