"""What the model sees: catalogue, codec, masks, data sets, splits, prompts."""
