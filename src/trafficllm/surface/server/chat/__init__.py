"""Chats over HTTP, in the shape of OpenAI: their answers, their source, and questions for single fields."""
