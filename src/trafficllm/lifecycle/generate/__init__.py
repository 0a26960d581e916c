"""Labels or words in, one valid capture out."""
