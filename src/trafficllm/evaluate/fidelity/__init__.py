"""Generated flows against held-out real ones."""
