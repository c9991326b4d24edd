"""What a run keeps on disk: records, settings and metric values, as parquet files."""
