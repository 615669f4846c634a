"""The training loop, its steps, and the files of a run.

`main.py` and `glcic train` import `launch`; the room alone imports nothing heavy.
"""
