"""Answers in words: an instruct model puts the verdict table in sentences, and what does not stand in the table is not said."""
