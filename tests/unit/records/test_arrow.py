from __future__ import annotations

import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from scoreline.tasks.records.arrow import as_parquet


def test_records_in_views_are_written_as_they_were() -> None:
    categories = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array(["u", "v"], pa.string_view()))
    texts = pa.array(["a", None, "c"], pa.string_view())
    frame = pd.DataFrame({"c": pd.arrays.ArrowExtensionArray(categories), "s": pd.arrays.ArrowExtensionArray(texts)})
    _, names, data = as_parquet("j", frame)
    read = pq.read_table(io.BytesIO(data))
    assert names == ["c", "s"]
    assert read["c"].to_pylist() == ["u", "v", None]
    assert read["s"].to_pylist() == ["a", None, "c"]
