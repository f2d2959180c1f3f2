"""What a save costs, beside what a user would do instead: `python -m benchmarks`.

Works (`works.py`) are models with data. Ways (`ways.py`) have the branches of a work
computed, and most of them kept on disk; how they are read back is in `reading.py`, and
how fast a head is trained on them in `training.py`. A worker (`worker.py`) is a process
with one work, which does one way at a time when it is told to, and measures it;
`running.py` tells workers, in turn, so that what the machine does meanwhile meets all
ways alike. All goes into one JSON, which `targets.py` compares with what is aimed for,
and `report.py` and `charts.py` make tables and charts of.
"""
