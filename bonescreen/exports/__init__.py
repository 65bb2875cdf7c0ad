"""Results for other programs: CSV, JSON, JSON lines, Parquet and XLSX, each written row by row."""
