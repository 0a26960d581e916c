"""One tuning run: rows to batches to steps to adapter files."""
