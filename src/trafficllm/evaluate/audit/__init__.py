"""What a labelled data set leaks."""
