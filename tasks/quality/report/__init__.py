"""Reports: what is known about a job that has ended, as data and as one HTML page.

`facts` has the types, `collect` reads what the bucket knows about a job, `pictures` draws histograms on common bins,
and `html` writes the page. This package works with `requirements.txt` alone, except that rejected rows are counted only
if pyarrow is installed. It imports the rooms `rejects`, `dispatch`, `job` and, in `quality`, the modules beside it.
"""
