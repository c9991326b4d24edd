"""From records to tables: cells, intervals, published numbers, and the files they are written to."""
