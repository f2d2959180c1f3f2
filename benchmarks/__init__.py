"""What a save costs, compared with its alternatives: `python -m benchmarks`.

Works (`works.py`) are models with data. Ways (`ways.py`) compute the branches of a
work, and most of them write the branches to disk. `reading.py` reads them back,
`training.py` trains a head on them. A worker (`worker.py`) is a process with one work:
it runs one way at a time, when it is ordered to, and measures it. `running.py` orders
workers in turn, so that other load on the machine affects all ways alike. The results
are one JSON file. `targets.py` compares it with the targets; `report.py` and
`charts.py` make tables and charts of it.
"""
