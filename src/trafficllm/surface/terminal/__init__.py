"""What a person at a terminal sees: options, output, progress, summaries."""
