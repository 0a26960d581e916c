"""The traffic vocabulary: learnt, added to any fast tokenizer, compared."""
