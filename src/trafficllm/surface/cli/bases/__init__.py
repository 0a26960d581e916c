"""Commands on bases: `base`, `tokenizer`, `tune`."""
