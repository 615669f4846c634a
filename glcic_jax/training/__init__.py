"""The training loop, its steps, and the files of a run.

`main.py` imports `launch`; the room alone imports nothing heavy.
"""
