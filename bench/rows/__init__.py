"""One row of the performance table each: `measure(bench)` returns what goes into the JSON."""
