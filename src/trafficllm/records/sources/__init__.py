"""What a data folder may hold, read as rows: captures, the original's JSON, HTTP requests, cell sequences."""
